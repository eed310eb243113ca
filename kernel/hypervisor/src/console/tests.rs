use core::fmt::Write;
use std::string::String;
use std::vec::Vec;

use proptest::prelude::*;
use vcpu::fake::{Clock, FakeHost};

use super::merged::{QUIET, QUIET_AWAKE};
use super::*;

pub(super) fn host() -> FakeHost {
    FakeHost::new(&Clock::new(1_000_000_000))
}

pub(super) fn guest(name: &str) -> Box<GuestConsole> {
    GuestConsole::new(crate::config::name(name)).expect("memory")
}

fn console(names: &[&str]) -> Console {
    let mut console = Console::new(names.len());
    for (place, text) in names.iter().enumerate() {
        console.add(place, guest(text));
    }
    console
}

pub(super) fn put(console: &mut Console, guest: usize, text: &str) {
    for byte in text.bytes() {
        assert!(console.put(guest, byte));
    }
}

/// Pumps until nothing moves any more: each time sends a piece.
fn pump(console: &mut Console, host: &mut FakeHost) -> bool {
    let mut more = true;
    for _ in 0..300 {
        more = console.pump(host);
    }
    more
}

pub(super) fn shown(console: &mut Console, host: &mut FakeHost) -> String {
    pump(console, host);
    String::from_utf8(core::mem::take(&mut host.output)).unwrap()
}

/// The same when all guests have been quiet for a while.
fn settled(console: &mut Console, host: &mut FakeHost) -> String {
    pump(console, host);
    host.clock.pass(QUIET.0);
    shown(console, host)
}

pub(super) fn type_keys(console: &mut Console, host: &mut FakeHost, keys: &[u8]) -> Option<Command> {
    host.input.extend(keys);
    console.read_keys(host)
}

#[test]
fn merged_lines_carry_names_and_never_mix() {
    let (mut console, mut host) = (console(&["a", "b"]), host());
    put(&mut console, 0, "one\r\ntw");
    put(&mut console, 1, "other");
    host.log.push_back(b"[    1.0] INFO  kernel line".to_vec());
    pump(&mut console, &mut host);
    put(&mut console, 1, " line\n");
    pump(&mut console, &mut host);
    put(&mut console, 0, "o\r\n\r\nbare\nend");
    let text = settled(&mut console, &mut host);
    assert_eq!(
        text,
        "[a] one\r\n[    1.0] INFO  kernel line\r\n[b] other line\r\n[a] two\r\n[a] \r\n[a] bare\r\n[a] end"
    );
}

#[test]
fn a_line_is_shown_when_it_is_complete_or_its_guest_is_quiet() {
    let (mut console, mut host) = (console(&["a", "b"]), host());
    put(&mut console, 0, "login: ");
    host.log.push_back(b"kernel".to_vec());
    assert!(pump(&mut console, &mut host), "there is more to come");
    assert_eq!(host.output, b"kernel\r\n");
    host.clock.pass(QUIET.0 - 1);
    assert!(pump(&mut console, &mut host));
    put(&mut console, 0, "r");
    host.clock.pass(QUIET.0 - 1);
    assert!(pump(&mut console, &mut host), "it has just sent something");
    assert_eq!(host.output, b"kernel\r\n");
    assert_eq!(settled(&mut console, &mut host), "kernel\r\n[a] login: r");
    put(&mut console, 0, "oot");
    assert_eq!(settled(&mut console, &mut host), "oot", "its line goes on");
    put(&mut console, 1, "b\n");
    put(&mut console, 0, "!\n");
    assert_eq!(settled(&mut console, &mut host), "\r\n[b] b\r\n[a] !\r\n");
    assert!(!pump(&mut console, &mut host));
}

#[test]
fn a_guest_that_waits_for_its_turn_in_mid_line_is_not_quiet() {
    let (mut console, mut host) = (console(&["a", "b"]), host());
    put(&mut console, 0, "ok s");
    console.set_awake(0, true);
    pump(&mut console, &mut host);
    // Many others have their slices.
    host.clock.pass(QUIET_AWAKE.0 - 1);
    put(&mut console, 1, "other\n");
    assert_eq!(shown(&mut console, &mut host), "[b] other\r\n");
    put(&mut console, 0, "lice_ends\nlogin: ");
    assert_eq!(shown(&mut console, &mut host), "[a] ok slice_ends\r\n");
    host.clock.pass(QUIET.0);
    assert_eq!(shown(&mut console, &mut host), "");
    console.set_awake(0, false);
    assert_eq!(shown(&mut console, &mut host), "[a] login: ", "it waits for an answer");
    put(&mut console, 0, "\nbusy");
    console.set_awake(0, true);
    pump(&mut console, &mut host);
    host.clock.pass(QUIET_AWAKE.0);
    assert_eq!(shown(&mut console, &mut host), "\r\n[a] busy", "nobody is waited for for ever");
}

#[test]
fn guests_that_write_at_the_same_time_do_not_break_each_others_lines() {
    let (mut console, mut host) = (console(&["a", "b"]), host());
    for (a, b) in "the quick brown fox\r\n".chars().zip("jumps over the dogs\r\n".chars()) {
        put(&mut console, 0, a.encode_utf8(&mut [0; 4]));
        put(&mut console, 1, b.encode_utf8(&mut [0; 4]));
        host.log.push_back(b"k".to_vec());
        pump(&mut console, &mut host);
    }
    let text = settled(&mut console, &mut host);
    assert_eq!(text.replace("k\r\n", ""), "[a] the quick brown fox\r\n[b] jumps over the dogs\r\n");
}

#[test]
fn a_line_without_end_is_shown_in_pieces() {
    let (mut console, mut host) = (console(&["a", "b"]), host());
    put(&mut console, 0, &"x".repeat(1000));
    pump(&mut console, &mut host);
    assert!(host.output.len() > 700, "no more than a line is kept");
    put(&mut console, 1, "b\n");
    put(&mut console, 0, "y\n");
    let text = settled(&mut console, &mut host);
    assert_eq!(text.matches('x').count(), 1000);
    assert!(text.contains("x\r\n[b] b\r\n[a] x") && text.ends_with("xy\r\n"), "{text}");
}

#[test]
fn the_kernels_log_is_replayed_from_its_first_line() {
    let (mut console, mut host) = (console(&["a"]), host());
    host.log_shown.extend([b"Basalt".to_vec(), b"1024 MiB of memory".to_vec()]);
    console.remember(&mut host);
    host.log.push_back(b"console ready".to_vec());
    assert_eq!(shown(&mut console, &mut host), "console ready\r\n", "what was shown is not shown again");
    type_keys(&mut console, &mut host, b"\x01k");
    assert_eq!(
        shown(&mut console, &mut host),
        "--- kernel log ---\r\nBasalt\r\n1024 MiB of memory\r\nconsole ready\r\n"
    );
}

#[test]
fn leaving_the_view_of_all_shows_what_was_kept() {
    let (mut console, mut host) = (console(&["a", "b"]), host());
    put(&mut console, 0, "half");
    put(&mut console, 1, "a line");
    type_keys(&mut console, &mut host, b"\x01k");
    assert_eq!(shown(&mut console, &mut host), "[a] half\r\n[b] a line\r\n--- kernel log ---\r\n");
}

#[test]
fn focus_replays_and_shows_raw_bytes_only() {
    let (mut console, mut host) = (console(&["a", "b"]), host());
    put(&mut console, 1, "login: ");
    settled(&mut console, &mut host);
    assert_eq!(type_keys(&mut console, &mut host, b"\x012"), None);
    put(&mut console, 1, "\x1b[2Jx");
    put(&mut console, 0, "hidden");
    host.log.push_back(b"hidden too".to_vec());
    assert_eq!(shown(&mut console, &mut host), "\r\n--- console of b ---\r\nlogin: \x1b[2Jx");
    type_keys(&mut console, &mut host, b"\x01k");
    assert_eq!(shown(&mut console, &mut host), "\r\n--- kernel log ---\r\nhidden too\r\n");
    type_keys(&mut console, &mut host, b"\x011");
    assert_eq!(shown(&mut console, &mut host), "--- console of a ---\r\nhidden");
}

#[test]
fn any_of_many_consoles_can_be_shown() {
    let names: Vec<String> = (1..=125).map(|number| std::format!("web-{number}")).collect();
    let (mut console, mut host) = (console(&names.iter().map(String::as_str).collect::<Vec<_>>()), host());
    let mut view = |keys: &[u8]| {
        assert_eq!(type_keys(&mut console, &mut host, keys), None);
        shown(&mut console, &mut host);
        console.view
    };
    assert_eq!(view(b"\x01n"), View::Guest(0), "the one that typed bytes go to");
    assert_eq!(view(b"\x01n"), View::Guest(1));
    assert_eq!(view(b"\x01p\x01p"), View::Guest(124));
    assert_eq!(view(b"\x01n"), View::Guest(0));
    assert_eq!(view(b"\x019"), View::Guest(8));
    assert_eq!(view(b"\x01a\x01p"), View::Guest(8));
    assert_eq!(view(b"\x01:console web-113\r"), View::Guest(112));
    assert_eq!(view(b"\x01:console 125\r"), View::Guest(124));
    type_keys(&mut console, &mut host, b"q");
    assert_eq!(console.input(124), Some(b'q'), "the prompt is left");
    assert_eq!(type_keys(&mut console, &mut host, b"\x01:stop web-125\r"), Some(Command::Stop(124)));
    type_keys(&mut console, &mut host, b"console web-126\r\r");
    assert!(shown(&mut console, &mut host).contains("there is no VM 'web-126'"));
    // Where there is none, nothing happens.
    let mut none = Console::new(0);
    type_keys(&mut none, &mut host, b"\x01n\x01p");
    assert!(shown(&mut none, &mut host).contains("there is no such VM"));
}

#[test]
fn lines_of_many_guests_are_kept_until_there_is_room() {
    let names: Vec<String> = (0..125).map(|number| std::format!("{number:031}")).collect();
    let (mut console, mut host) = (console(&names.iter().map(String::as_str).collect::<Vec<_>>()), host());
    for guest in 0..125 {
        put(&mut console, guest, &"x".repeat(200));
    }
    type_keys(&mut console, &mut host, b"\x01k\x01a");
    let text = settled(&mut console, &mut host);
    assert_eq!(text.matches('x').count(), 125 * 200);
}

#[test]
fn typed_bytes_reach_the_focused_guest() {
    let (mut console, mut host) = (console(&["a", "b"]), host());
    type_keys(&mut console, &mut host, b"x\x01\x01\x012y\x01a\x019z");
    let mut take = |guest| {
        let mut bytes = Vec::new();
        while let Some(byte) = console.input(guest) {
            console.input_taken(guest);
            bytes.push(byte);
        }
        bytes
    };
    assert_eq!(take(0), b"x\x01");
    assert_eq!(take(1), b"yz", "the target stays when all are shown again, and there is no VM 9");
    console.end_guest(1);
    type_keys(&mut console, &mut host, b"q");
    assert_eq!(console.input(0), Some(b'q'));
}

#[test]
fn commands_come_back_one_by_one() {
    let (mut console, mut host) = (console(&["a"]), host());
    assert_eq!(type_keys(&mut console, &mut host, b"\x01l\x01x"), Some(Command::List));
    writeln!(console.voice(), "1 a running").unwrap();
    assert_eq!(console.read_keys(&mut host), Some(Command::End));
    assert_eq!(console.read_keys(&mut host), None);
    type_keys(&mut console, &mut host, b"\x01h\x01%");
    let text = shown(&mut console, &mut host);
    assert!(text.starts_with("1 a running\r\nCtrl-A 1..9"), "{text}");
    assert!(text.contains("no such command"));
}

#[test]
fn nobody_is_told_that_all_is_shown_while_lines_are_left() {
    let (mut console, mut host) = (console(&["a"]), host());
    host.log.extend((0..20).map(|line: u8| std::vec![b'a' + line]));
    let mut rounds = 0;
    while console.pump(&mut host) {
        rounds += 1;
    }
    assert!(host.log.is_empty() && host.output.ends_with(b"t\r\n"), "{rounds}");
}

#[test]
fn a_line_at_the_prompt_is_a_command() {
    let (mut console, mut host) = (console(&["a", "b"]), host());
    assert_eq!(type_keys(&mut console, &mut host, b"\x01:stop x\x7fb\r"), Some(Command::Stop(1)));
    assert_eq!(shown(&mut console, &mut host), "basalt> stop x\x08 \x08b\r\nbasalt> ");
    assert_eq!(type_keys(&mut console, &mut host, b"stop c\rhel\x15\r"), None);
    assert_eq!(
        shown(&mut console, &mut host),
        "stop c\r\nthere is no VM 'c'; list tells their names and numbers\r\nbasalt> \
         hel\x08 \x08\x08 \x08\x08 \x08\r\n"
    );
    type_keys(&mut console, &mut host, b"x");
    assert_eq!(console.input(0), Some(b'x'), "an empty line has closed it");
}

#[test]
fn output_comes_before_the_prompt_and_a_guest_alone_waits() {
    let (mut console, mut host) = (console(&["a", "b"]), host());
    type_keys(&mut console, &mut host, b"\x01mwei");
    put(&mut console, 0, "hello\n");
    host.log.push_back(b"kernel".to_vec());
    let text = shown(&mut console, &mut host);
    assert_eq!(text, "basalt> wei\r\n[a] hello\r\nkernel\r\nbasalt> wei");
    type_keys(&mut console, &mut host, b"\x03\x011\x01:");
    shown(&mut console, &mut host);
    assert!(!console.put(0, b'x') && console.put(1, b'y'));
    type_keys(&mut console, &mut host, b"\x1b");
    assert!(console.put(0, b'x'));
}

#[test]
fn a_guest_that_never_reads_leaves_the_commands_reachable() {
    let (mut console, mut host) = (console(&["a"]), host());
    type_keys(&mut console, &mut host, &[b'z'; 2000]);
    host.input.extend(b"\x01x");
    let command = (0..100).find_map(|_| console.read_keys(&mut host));
    assert_eq!(command, Some(Command::End));
}

#[test]
fn the_end_of_the_focused_guest_shows_all_again() {
    let (mut console, mut host) = (console(&["a", "b"]), host());
    type_keys(&mut console, &mut host, b"\x011");
    put(&mut console, 0, "bye");
    console.end_guest(0);
    host.log.push_back(b"vm a: stopped".to_vec());
    assert!(shown(&mut console, &mut host).ends_with("bye\r\nvm a: stopped\r\n"));
}

proptest! {
    /// With a console that takes few bytes at a time, a focused guest's bytes all come out, in order.
    #[test]
    fn no_byte_of_a_focused_guest_is_lost(
        chunks in prop::collection::vec((prop::collection::vec(any::<u8>(), 0..3000), 0usize..4000), 1..20),
    ) {
        let (mut console, mut host) = (console(&["a", "b"]), host());
        type_keys(&mut console, &mut host, b"\x011");
        pump(&mut console, &mut host);
        host.output.clear();
        let mut sent = Vec::new();
        for (chunk, room) in &chunks {
            for &byte in chunk {
                console.put(1, byte);
                while !console.put(0, byte) {
                    host.output_room = 700;
                    pump(&mut console, &mut host);
                }
                sent.push(byte);
            }
            host.output_room = *room;
            pump(&mut console, &mut host);
        }
        host.output_room = usize::MAX;
        prop_assert!(!pump(&mut console, &mut host));
        prop_assert_eq!(&host.output, &sent);
    }

    /// In the merged view each guest's text is all there once names and line breaks are taken away.
    #[test]
    fn no_text_is_lost_when_merged(pieces in prop::collection::vec((0usize..2, "[x-z\n]{0,8}"), 0..40)) {
        let (mut console, mut host) = (console(&["a", "b"]), host());
        let mut sent = [String::new(), String::new()];
        for (guest, text) in &pieces {
            put(&mut console, *guest, text);
            sent[*guest].push_str(&text.replace('\n', ""));
        }
        let output = settled(&mut console, &mut host);
        let mut got = [String::new(), String::new()];
        for line in output.split("\r\n").filter(|line| !line.is_empty()) {
            let guest = usize::from(line.starts_with("[b] "));
            got[guest].push_str(line.get(4..).unwrap());
        }
        prop_assert_eq!(got, sent);
    }

    /// Any typing and any output: no panic, and all that is typed is consumed.
    #[test]
    fn anything_can_be_typed(keys in prop::collection::vec(any::<u8>(), 0..600), room in 0usize..20_000) {
        let (mut console, mut host) = (console(&["a", "b", "c"]), host());
        host.output_room = room;
        host.input.extend(&keys);
        for _ in 0..keys.len() + 10 {
            console.read_keys(&mut host);
            console.put(0, b'x');
            pump(&mut console, &mut host);
        }
        prop_assert!(host.input.is_empty());
    }
}
