//! Any order of what VMs can be asked, by a model that knows only which VMs there are to be.

use std::collections::BTreeMap;
use std::vec::Vec;

use proptest::prelude::*;

use super::yard::{ENDS, HALTS, LOOPS, Place, Yard, entry, small};
use crate::config::{Description, Nic, Restart, name};
use crate::schedule::VmId;
use crate::{CreateVmError, ManageError, VmState};

/// Places, names and vCPUs of a VM at most: more names than places, and vCPUs than there is room for.
const PLACES: usize = 3;
const NAMES: [&str; 5] = ["a", "b", "c", "d", "e"];
const MOST_CPUS: usize = 6;

#[derive(Clone, Copy, Debug)]
enum Act {
    Create { name: usize, cpus: usize, net: bool, line: bool, restart: bool },
    Start(usize),
    Entry(usize, u64),
    Stop(usize),
    Reset(usize),
    Pause(usize),
    Resume(usize),
    Destroy(usize),
    Rounds(usize),
}

fn acts() -> impl Strategy<Value = Vec<Act>> {
    let which = || 0..NAMES.len();
    let roles = prop::sample::select(std::vec![ENDS, HALTS, LOOPS]);
    let create = (which(), 1..=MOST_CPUS, any::<bool>(), any::<bool>(), any::<bool>());
    let act = prop_oneof![
        3 => create.prop_map(|(name, cpus, net, line, restart)| Act::Create { name, cpus, net, line, restart }),
        4 => which().prop_map(Act::Start),
        3 => (which(), roles).prop_map(|(vm, role)| Act::Entry(vm, role)),
        1 => which().prop_map(Act::Stop),
        1 => which().prop_map(Act::Reset),
        1 => which().prop_map(Act::Pause),
        1 => which().prop_map(Act::Resume),
        2 => which().prop_map(Act::Destroy),
        4 => (0_usize..400).prop_map(Act::Rounds),
    ];
    prop::collection::vec(act, 1..40)
}

/// What there is to be.
#[derive(Default)]
struct Model {
    /// VMs that were made and not destroyed, by name.
    there: BTreeMap<usize, VmId>,
    /// Those that were destroyed, with the name that was theirs.
    leaving: Vec<(usize, VmId)>,
    cpus: BTreeMap<usize, usize>,
}

impl Model {
    fn create(&mut self, place: &mut Place<'_, '_>, act: Act) {
        let Act::Create { name: number, cpus, net, line, restart } = act else { return };
        let mut description = Description { cpus, ..small(NAMES[number]) };
        description.nics.extend(net.then(|| Nic::on("lan")));
        description.ports.extend(line.then(|| name("line")));
        description.restart = if restart { Restart::Always } else { Restart::No };
        self.leaving.retain(|(_, id)| place.node.state(*id).is_some());
        let made = place.node.create(place.first.host(), description);
        let name_taken =
            self.there.contains_key(&number) || self.leaving.iter().any(|(name, _)| *name == number);
        match made {
            Ok(id) => {
                assert!(!name_taken && self.there.len() + self.leaving.len() < PLACES);
                self.there.insert(number, id);
                self.cpus.insert(number, cpus);
            }
            Err(CreateVmError::NameTaken(_)) => assert!(name_taken),
            // The line is two others', all places are taken, or all vCPUs are.
            Err(CreateVmError::NoPlace | CreateVmError::Refused(_)) => assert!(!name_taken),
            Err(error) => panic!("{error}"),
        }
    }

    fn act(&mut self, place: &mut Place<'_, '_>, act: Act) {
        let node = place.node;
        let id = |number: usize| self.there.get(&number).copied();
        let host = place.first.host();
        // Whether something comes of it depends on how far the VM is; but it is always the one that was meant.
        let done = match act {
            Act::Create { .. } => return self.create(place, act),
            Act::Rounds(count) => return (0..count).for_each(|_| place.first.round()),
            Act::Start(vm) => id(vm).map(|id| node.start(host, id)),
            Act::Entry(vm, role) => id(vm).map(|id| node.set_entry(id, entry(role))),
            Act::Stop(vm) => id(vm).map(|id| node.stop(host, id)),
            Act::Reset(vm) => id(vm).map(|id| node.reset(host, id)),
            Act::Pause(vm) => id(vm).map(|id| node.pause(host, id)),
            Act::Resume(vm) => id(vm).map(|id| node.resume(host, id)),
            Act::Destroy(vm) => {
                let Some(id) = self.there.remove(&vm) else { return };
                self.cpus.remove(&vm);
                self.leaving.push((vm, id));
                Some(node.destroy(host, id))
            }
        };
        assert!(!matches!(done, Some(Err(ManageError::NoSuchVm(_)))), "{act:?}");
    }

    fn check(&self, place: &mut Place<'_, '_>) {
        let node = place.node;
        for (number, id) in &self.there {
            assert!(node.state(*id).is_some() && node.named(NAMES[*number]) == Some(*id));
        }
        let leaving = self.leaving.iter().filter(|(_, id)| node.state(*id).is_some()).count();
        let [vms, vcpus, _, _] = node.holdings();
        assert_eq!(vms as usize, self.there.len() + leaving);
        assert!(vcpus as usize >= self.cpus.values().sum::<usize>());
        for (_, id) in &self.leaving {
            assert!(node.start(place.first.host(), *id).is_err(), "it starts no more");
            assert_ne!(node.state(*id), Some(VmState::Paused));
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, max_shrink_iters: 200, ..ProptestConfig::default() })]

    #[test]
    fn whatever_is_asked_of_vms_all_is_back_in_the_end(acts in acts()) {
        Yard::new(1, PLACES * MOST_CPUS, &[]).run(PLACES, |place| {
            let (mut model, free) = (Model::default(), place.bank.free());
            for act in acts {
                model.act(place, act);
                model.check(place);
            }
            for (_, id) in core::mem::take(&mut model.there) {
                place.destroy(id);
                model.leaving.push((0, id));
            }
            for (_, id) in &model.leaving {
                place.until_gone(*id);
            }
            assert_eq!((place.node.holdings(), place.bank.free()), ([0; 4], free));
            assert!(place.node.networks.iter().all(|network| network.switch.ports().next().is_none()));
        });
    }
}
