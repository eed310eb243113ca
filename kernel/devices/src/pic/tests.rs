use super::*;
use proptest::prelude::*;
extern crate std;
use std::vec::Vec;

fn initialized() -> PicPair {
    let mut pics = PicPair::new();
    for (which, base, icw3) in [(PicSelect::Master, 0x30, 4), (PicSelect::Slave, 0x38, 2)] {
        pics.write(which, 0, 0x11).unwrap();
        for word in [base, icw3, 0x01, 0x00] {
            pics.write(which, 1, word).unwrap();
        }
    }
    pics
}

fn pulse(pics: &mut PicPair, irq: u8) {
    pics.set_line(irq, true);
    pics.set_line(irq, false);
}

fn eoi(pics: &mut PicPair, which: PicSelect) {
    pics.write(which, 0, 0x20).unwrap();
}

#[test]
fn priorities_and_end_of_interrupt() {
    let mut pics = initialized();
    pulse(&mut pics, 4);
    pulse(&mut pics, 0);
    assert_eq!(pics.acknowledge(), 0x30);
    assert!(!pics.interrupt(), "IRQ 4 waits for the end of IRQ 0");
    eoi(&mut pics, PicSelect::Master);
    assert_eq!(pics.acknowledge(), 0x34);
    pulse(&mut pics, 1);
    assert_eq!(pics.acknowledge(), 0x31);
    eoi(&mut pics, PicSelect::Master);
    eoi(&mut pics, PicSelect::Master);
    assert!(!pics.interrupt());
    assert_eq!(pics.acknowledge(), 0x37, "nothing pending: spurious");
    assert_eq!(pics.read(PicSelect::Master, 0).unwrap(), 0);
}

#[test]
fn the_slave_needs_both_ends() {
    let mut pics = initialized();
    pulse(&mut pics, 10);
    pulse(&mut pics, 8);
    assert_eq!(pics.acknowledge(), 0x38);
    eoi(&mut pics, PicSelect::Slave);
    assert!(!pics.interrupt());
    eoi(&mut pics, PicSelect::Master);
    assert_eq!(pics.acknowledge(), 0x3a);
}

#[test]
fn level_lines_come_back_after_their_end() {
    let mut pics = initialized();
    pics.write_elcr(1, 0xff);
    assert_eq!((pics.read_elcr(0), pics.read_elcr(1)), (0, 0xde));
    pics.set_line(9, true);
    assert_eq!(pics.acknowledge(), 0x39);
    eoi(&mut pics, PicSelect::Slave);
    eoi(&mut pics, PicSelect::Master);
    assert_eq!(pics.acknowledge(), 0x39);
    pics.set_line(9, false);
    eoi(&mut pics, PicSelect::Slave);
    eoi(&mut pics, PicSelect::Master);
    assert!(!pics.interrupt());
}

#[test]
fn masks_hold_edges_back_and_initialisation_forgets_them() {
    let mut pics = initialized();
    pics.write(PicSelect::Master, 1, 0x01).unwrap();
    pulse(&mut pics, 0);
    assert!(!pics.interrupt());
    assert_eq!(pics.read(PicSelect::Master, 0).unwrap(), 0x01);
    pics.write(PicSelect::Master, 1, 0).unwrap();
    assert!(pics.interrupt());
    pics.write(PicSelect::Master, 0, 0x11).unwrap();
    assert!(!pics.interrupt());
}

#[test]
fn poll_acknowledges() {
    let mut pics = initialized();
    pulse(&mut pics, 5);
    pics.write(PicSelect::Master, 0, 0x0c).unwrap();
    assert_eq!(pics.read(PicSelect::Master, 0).unwrap(), 0x85);
    pics.write(PicSelect::Master, 0, 0x0b).unwrap();
    assert_eq!(pics.read(PicSelect::Master, 0).unwrap(), 1 << 5);
}

#[test]
fn automatic_end_and_rotation() {
    let mut pics = PicPair::new();
    pics.write(PicSelect::Master, 0, 0x13).unwrap();
    pics.write(PicSelect::Master, 1, 0x20).unwrap();
    pics.write(PicSelect::Master, 1, 0x03).unwrap();
    pics.write(PicSelect::Master, 0, 0x80).unwrap();
    pulse(&mut pics, 3);
    assert_eq!(pics.acknowledge(), 0x23);
    pulse(&mut pics, 3);
    pulse(&mut pics, 6);
    assert_eq!(pics.acknowledge(), 0x26, "IRQ 3 rotated to the lowest priority");
    assert_eq!(pics.acknowledge(), 0x23);
}

#[test]
fn special_mask_mode_lets_lower_priorities_through() {
    let mut pics = initialized();
    pulse(&mut pics, 1);
    assert_eq!(pics.acknowledge(), 0x31);
    pulse(&mut pics, 5);
    assert!(!pics.interrupt());
    pics.write(PicSelect::Master, 1, 0x02).unwrap();
    pics.write(PicSelect::Master, 0, 0x68).unwrap();
    assert_eq!(pics.acknowledge(), 0x35);
}

/// The plain model: sets and linear searches, default priorities, edge-triggered, no automatic end.
#[derive(Default)]
struct Model {
    requested: [bool; 16],
    served: [bool; 16],
    masked: [bool; 16],
}

impl Model {
    /// Inputs by falling priority: the slave's stand where the cascade is.
    const ORDER: [usize; 15] = [0, 1, 8, 9, 10, 11, 12, 13, 14, 15, 3, 4, 5, 6, 7];

    fn pending(&self) -> Option<usize> {
        for &irq in &Self::ORDER {
            if irq >= 8 && self.masked[2] {
                continue;
            }
            // The master is held back by IRQ 2 in service, whichever slave input it stands for.
            let order = if irq >= 8 { 2 } else { irq };
            let master_blocked = (0..=order).any(|i| self.served[i]);
            let slave_blocked = irq >= 8 && (8..=irq).any(|i| self.served[i]);
            if self.requested[irq] && !self.masked[irq] && !master_blocked && !slave_blocked {
                return Some(irq);
            }
        }
        None
    }
}

proptest! {
    #[test]
    fn pair_agrees_with_the_model(steps in prop::collection::vec((0u8..5, 0usize..16), 1..150)) {
        let mut pics = initialized();
        let mut model = Model::default();
        for (action, irq) in steps {
            let half = irq & 8;
            let which = if half == 0 { PicSelect::Master } else { PicSelect::Slave };
            match action {
                0 | 1 if irq != 2 => {
                    pulse(&mut pics, irq as u8);
                    model.requested[irq] = true;
                }
                2 => {
                    let expected = model.pending();
                    prop_assert_eq!(pics.interrupt(), expected.is_some());
                    if let Some(expected) = expected {
                        prop_assert_eq!(pics.acknowledge(), 0x30 + expected as u8);
                        model.requested[expected] = false;
                        model.served[expected] = true;
                        model.served[2] |= expected >= 8;
                    }
                }
                3 => {
                    eoi(&mut pics, which);
                    if let Some(ended) = (half..half + 8).find(|&i| model.served[i]) {
                        model.served[ended] = false;
                    }
                }
                _ => {
                    model.masked[irq] ^= true;
                    let mask: Vec<bool> = model.masked[half..half + 8].to_vec();
                    let value = mask.iter().rev().fold(0, |bits, &set| bits << 1 | u8::from(set));
                    pics.write(which, 1, value).unwrap();
                }
            }
            prop_assert_eq!(pics.interrupt(), model.pending().is_some());
        }
    }

    #[test]
    fn no_sequence_panics(steps in prop::collection::vec(any::<(u8, u8, u8)>(), 0..300)) {
        let mut pics = PicPair::new();
        for (action, target, value) in steps {
            let which = if target & 2 == 0 { PicSelect::Master } else { PicSelect::Slave };
            match action % 6 {
                0 => { pics.write(which, u16::from(target & 1), value).unwrap(); }
                1 => { pics.read(which, u16::from(target & 1)).unwrap(); }
                2 => pics.set_line(target, value & 1 != 0),
                3 => pics.write_elcr(u16::from(target & 1), value),
                4 => pics.set_level_triggered(target),
                _ => { pics.acknowledge(); }
            }
        }
    }
}
