//! Networks at the prompt.

use std::vec;

use vswitch::switch::Port;

use super::bench::{Bench, Run, halt, kernel};
use crate::{Node, Options};

/// Two VMs that halt; these lines are typed. What is shown, and what is set of the first VM's first port in the end.
fn typed(lines: &str) -> (Run, vswitch::settings::Settings) {
    let mut bench = Bench::new();
    for line in [
        "vm=web memory=16M net=lan net=dmz kernel",
        "vm=db memory=16M net=lan kernel",
        "vm=none memory=16M kernel",
    ] {
        bench.add_module(line, &kernel());
        bench.backend.add_program(halt);
    }
    bench.host.input.extend(b"\x01:");
    bench.host.input.extend(lines.replace('\n', "\r").bytes().chain(*b"\rpower-off\r"));
    let mut settings = None;
    let run = bench.run_between(
        &Options::default(),
        |_| (),
        |node| {
            let (network, id) = node.networks.port_of("web", 0).expect("a port");
            settings = network.switch.port(id).map(Port::settings);
        },
    );
    (run, settings.expect("a port"))
}

#[track_caller]
fn assert_shown(run: &Run, texts: &[&str]) {
    for text in texts {
        assert!(run.shown.contains(text), "no {text:?} in {}", run.shown);
    }
}

#[test]
fn ports_are_changed_at_the_prompt() {
    let (run, settings) = typed("port web.0 vlan=7 outbound=100M ip=10.0.0.5 link=down\nports lan");
    assert_shown(
        &run,
        &[
            "web.0 on network lan: vlan=7 outbound=100M ip=10.0.0.5 link=down",
            "\r\nweb.0             down               0         0 B          0         0 B          0\r\n",
            "\r\n    vlan=7 outbound=100M ip=10.0.0.5 link=down\r\ndb.0              no driver",
        ],
    );
    assert_eq!((settings.up, settings.send.map(|rate| rate.per_second)), (false, Some(12_500_000)));
    assert!(settings.guard.mac.is_some_and(|mac| mac[0] == 2), "it is still bound to its own address");
}

#[test]
fn a_wrong_word_for_a_port_changes_nothing() {
    let (run, settings) = typed(
        "port web.0 vlan=7 mtu=1\nport web vlan=7\nport db.1 vlan=7\nport none vlan=7\nport web.0 mac=02:00:00:00:00:09",
    );
    assert_shown(
        &run,
        &[
            "nothing has changed: mtu='1' is no number from 68 to 65535",
            "vm web has 2 network devices; write which one, web.0 to web.1",
            "vm db has no network device 1: its last one is db.0",
            "vm none has no network device: net=NETWORK in its line gives it one",
            "nothing has changed: 'mac=02:00:00:00:00:09' has its place in the VM's line",
        ],
    );
    assert_eq!(settings.vlans, vswitch::settings::Vlans::Access(1));
}

#[test]
fn rules_are_listed_and_changed_at_the_prompt() {
    let (run, _) = typed(
        "rule lan add deny from=web, to=2 protocol=tcp,port=22\nrule lan add allow vlan=3\nrules lan\nrule lan delete 1\nrule lan delete 9\nrule lan default deny\nrule lan add deny form=web\nrules lan\nnetworks\nrules who",
    );
    assert_shown(
        &run,
        &[
            "network lan: rule 1: deny from=web.0 to=db.0 protocol=tcp port=22\r\n",
            "  #    packets       bytes  rule\r\n  1          0         0 B  deny from=web.0 to=db.0 protocol=tcp port=22\r\n  2          0         0 B  allow vlan=3\r\n  -          0              what no rule fits is allowed\r\n",
            "network lan: rule 1 is deleted, 1 are left",
            "network lan has no rule 9; rules lan lists them",
            "network lan: what no rule fits is denied, but ARP and neighbour discovery",
            "nothing has changed: 'form=web' is unknown; write from=VM",
            "  1          0         0 B  allow vlan=3\r\n  -          0              what no rule fits is denied",
            "network           ports  addresses  default  rules  mirrors  denied by default\r\nlan                   2          0  deny         1        0          0 packets\r\ndmz                   1          0  allow",
            "there is no network 'who'; networks lists them",
        ],
    );
}

#[test]
fn mirrors_are_listed_and_changed_at_the_prompt() {
    let (run, _) = typed(
        "mirrors lan\nmirror lan add sent=web to=db snap=64\nmirrors lan\nports lan\nmirror lan add both=web to=web\nmirror lan delete 2\nmirror lan delete 1",
    );
    assert_shown(
        &run,
        &[
            "network lan has no mirror; mirror lan add both=VM to=VM makes one",
            "network lan: mirror 1: to=db.0 sent=web.0 snap=64",
            "\r\n  1  to=db.0 sent=web.0 snap=64\r\n",
            "nothing has changed: 'to=web' is watched by itself",
            "network lan has no mirror 2; mirrors lan lists them",
            "network lan: mirror 1 is deleted, 0 are left",
        ],
    );
}

#[test]
fn addresses_are_listed_by_ports() {
    let mut bench = Bench::new();
    for line in ["vm=web memory=16M net=lan kernel", "vm=db memory=16M net=lan vlan=7 kernel"] {
        bench.add_module(line, &kernel());
        bench.backend.add_program(halt);
    }
    bench.host.input.extend(*b"\x01:addresses lan\rnetworks\rpower-off\r");
    let learn = |node: &Node<'_, _>| {
        for (vm, vlan, mac) in
            [("db", 7, [2, 0, 0, 0, 0, 2]), ("web", 1, [2, 0, 0, 0, 0, 1]), ("db", 7, [2; 6])]
        {
            let (network, id) = node.networks.port_of(vm, 0).expect("a port");
            network.switch.addresses.learn(mac, vlan, id, 0);
        }
    };
    let run = bench.run_between(&Options::default(), learn, |_| ());
    assert_shown(
        &run,
        &[
            "address            VLAN  port                  age\r\n02:00:00:00:00:01     1  web.0                 0 s\r\n",
            "02:00:00:00:00:02     7  db.0                  0 s\r\n",
            "02:02:02:02:02:02     7  db.0                  0 s\r\n",
            "lan                   2          3  allow",
        ],
    );
}

#[test]
fn lists_end_where_the_console_is_full() {
    let mut bench = Bench::new();
    bench.add_module("vm=web memory=16M net=lan kernel", &kernel());
    bench.backend.add_program(halt);
    bench.host.input.extend(*b"\x01:rules lan\rpower-off\r");
    // It takes a moment until all is shown.
    (bench.host.output_room, bench.host.output_burst) = (0, 100);
    let options = Options {
        networks: vec!["rule=lan:allow,protocol=tcp,source-port=1024-65535,port=22,vlan=4000"; 256],
        ..Options::default()
    };
    let run = bench.run_with(&options);
    assert_shown(
        &run,
        &[" more, for which the console has no room now\r\n  -          0", "what no rule fits is allowed"],
    );
}
