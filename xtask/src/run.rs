//! `cargo xtask run`: boots Basalt on a machine, with its consoles on the terminal or watched by us.

use std::io::{IsTerminal, Write, stdin, stdout};
use std::net::{Ipv4Addr, TcpListener};
use std::path::Path;
use std::time::{Duration, Instant};

use crate::cli::RunOptions;
use crate::console::{Console, News};
use crate::failure::{Failure, Result};
use crate::image::Recipe;
use crate::machine::{self, Forward, Launch};
use crate::terminal::Raw;
use crate::{build, guest, interrupt, paths, progress, symbolize};

const CTRL_A: u8 = 0x01;
/// Basalt says this when its console takes keys.
const CONSOLE_READY: &str = "console ready";
/// Gives the keyboard to the first VM,
const FOCUS_FIRST_VM: [u8; 2] = [CTRL_A, b'1'];
/// and to the second, which is the first one that the management domain makes. The kernel says this of it then.
const FOCUS_SECOND_VM: [u8; 2] = [CTRL_A, b'2'];
const VM_MADE: &str = ": is made, with ";
/// After Ctrl-A x Basalt switches the machine off itself within this; then we do.
const FAREWELL: Duration = Duration::from_secs(5);
/// Where the management domain's API is (`api::PORT`).
pub(crate) const API_PORT: u16 = 8443;
const POLL: Duration = Duration::from_millis(200);
const HEADLESS_LIMIT: u64 = 600;

/// Runs as the options say.
pub(crate) fn run(options: &RunOptions) -> Result<()> {
    if options.machine == "list" {
        return machine::print_list();
    }
    let sends = options.send.iter().map(|rule| parse_send(rule)).collect::<Result<Vec<_>>>()?;
    let profile = machine::profile_for(&options.machine, options.contents.has_dom0())?;
    profile.ensure()?;
    let mut recipe = recipe(&options.contents)?;
    recipe.suit(&profile);
    let names: Vec<_> = recipe.guests.iter().map(|guest| guest.name.as_str()).collect();
    let name = format!("run-{}-{}", profile.name, names.join("-"));
    let image = recipe.make_for(&profile, &name)?;
    interrupt::watch()?;
    progress::note(&format!("booting {} on {}", names.join(", "), profile.name));
    let forwards = forwards(options)?;
    let launch = Launch {
        image: &image,
        name: &name,
        cpus: options.cpus,
        memory: options.memory.clone(),
        forwards: forwards.clone(),
    };
    let console = Console::start(&profile, &launch)?;
    let focus = match options.contents.makes_vms() {
        true => (VM_MADE, FOCUS_SECOND_VM),
        false => (CONSOLE_READY, FOCUS_FIRST_VM),
    };
    if options.headless {
        let limit = Duration::from_secs(options.timeout.unwrap_or(HEADLESS_LIMIT));
        headless(console, &options.until, sends, limit, &recipe.kernel)
    } else {
        interactive(console, focus, options.timeout.map(Duration::from_secs), &recipe.kernel)
    }
}

/// The API of the management domain, at its own port where nobody has that here.
fn forwards(options: &RunOptions) -> Result<Vec<Forward>> {
    if !options.contents.has_dom0() {
        return Ok(Vec::new());
    }
    let forward = match TcpListener::bind((Ipv4Addr::LOCALHOST, API_PORT)) {
        Ok(_) => Forward { here: API_PORT, there: API_PORT },
        Err(_) => Forward::to(API_PORT)?,
    };
    progress::note(&format!("the node's API is at https://127.0.0.1:{} (docs/cli.md)", forward.here));
    Ok(vec![forward])
}

/// Builds everything that the command line asks for into a recipe.
pub(crate) fn recipe(contents: &crate::cli::Contents) -> Result<Recipe> {
    let kernel = build::kernel()?;
    let names = match contents.guest.as_slice() {
        [] if contents.no_dom0 => vec![guest::DEFAULT.to_owned()],
        [] => vec![guest::DEFAULT_NODE.to_owned()],
        names => names.to_vec(),
    };
    let guests = guest::prepare_all(&names, contents.guest_append.as_deref().unwrap_or_default())?;
    Ok(Recipe { kernel, options: contents.option.join(" "), guests })
}

/// Until the user ends it. When the kernel has said what `focus` begins with, a VM gets the keyboard.
fn interactive(
    mut console: Console,
    (said, keys): (&str, [u8; 2]),
    limit: Option<Duration>,
    kernel: &Path,
) -> Result<()> {
    if stdin().is_terminal() {
        progress::note("Ctrl-A h helps, Ctrl-A x ends");
    }
    let raw = Raw::enter()?;
    console.read_keyboard();
    let mut deadline = limit.map(|limit| Instant::now() + limit);
    let (mut focused, mut after_ctrl_a) = (false, false);
    loop {
        match console.next(POLL)? {
            News::Output(bytes) => {
                show(&bytes);
                if !focused && console.log.kernel().any(|line| line.contains(said)) {
                    focused = true;
                    console.send(&keys);
                }
            }
            News::Keys(keys) => {
                if asks_to_end(&keys, &mut after_ctrl_a) {
                    let farewell = Instant::now() + FAREWELL;
                    deadline = Some(deadline.map_or(farewell, |limit| limit.min(farewell)));
                }
                console.send(&keys);
            }
            News::Silence if console.has_ended() => break,
            News::Silence => {}
            News::End => break,
        }
        if console.log.panicked() {
            console.await_epitaph(show)?;
            break;
        }
        if deadline.is_some_and(|deadline| Instant::now() > deadline) {
            break;
        }
    }
    drop(raw);
    eprintln!();
    progress::note(&format!("serial log: {}", console.log_path()));
    if console.log.panicked() { Err(panic_failure(&console, kernel)) } else { Ok(()) }
}

fn headless(
    mut console: Console,
    until: &[String],
    mut sends: Vec<(String, Vec<u8>)>,
    limit: Duration,
    kernel: &Path,
) -> Result<()> {
    let start = Instant::now();
    progress::note(&format!("serial log: {}", console.log_path()));
    let mut missing: Vec<&str> = until.iter().map(String::as_str).collect();
    let mut looked_at = 0;
    loop {
        let news = console.next(limit.saturating_sub(start.elapsed()))?;
        if let News::Output(bytes) = &news {
            show(bytes);
        }
        let lines: Vec<_> = console.log.lines_from(looked_at).map(|line| line.to_string()).collect();
        for shown in lines {
            missing.retain(|text| !shown.contains(text));
            if let Some((text, _)) = sends.first()
                && shown.contains(text.as_str())
            {
                let (_, input) = sends.remove(0);
                console.send(&input);
                break;
            }
        }
        looked_at = console.log.lines().len();
        if console.log.panicked() {
            console.await_epitaph(show)?;
            return Err(panic_failure(&console, kernel));
        }
        if !until.is_empty() && missing.is_empty() {
            println!();
            progress::note(&format!("seen after {:.1} s", start.elapsed().as_secs_f64()));
            return Ok(());
        }
        match news {
            News::Output(_) | News::Keys(_) if start.elapsed() < limit => {}
            _ if interrupt::requested() => return Err(interrupt::failure()),
            News::End if until.is_empty() => return Ok(()),
            News::End => return Err(unseen("the machine ended", &missing, &console)),
            _ => {
                let what = format!("time is up ({} s)", limit.as_secs());
                return Err(unseen(&what, &missing, &console));
            }
        }
    }
}

/// The failure to report when Basalt itself has panicked, with names for the addresses.
pub(crate) fn panic_failure(console: &Console, kernel: &Path) -> Failure {
    let frames = symbolize::epitaph(&console.log, kernel);
    let backtrace: String = frames.iter().map(|frame| format!("\n    {frame}")).collect();
    Failure::new(format!("Basalt panicked; the addresses in its last words are:{backtrace}"))
        .next(format!("read the log: {}", console.log_path()))
}

fn unseen(what: &str, missing: &[&str], console: &Console) -> Failure {
    let missing: Vec<_> = missing.iter().map(|text| format!("`{text}`")).collect();
    let missing = match missing.as_slice() {
        [] => String::new(),
        texts => format!(" before {} appeared", texts.join(" and ")),
    };
    Failure::new(format!("{what}{missing}")).next(format!("read the log: {}", console.log_path()))
}

fn show(bytes: &[u8]) {
    let mut output = stdout().lock();
    // Somebody who closed our output does not want to see it.
    let _ = output.write_all(bytes);
    let _ = output.flush();
}

/// True when the keys hold Ctrl-A x, which may come in two pieces.
fn asks_to_end(keys: &[u8], after_ctrl_a: &mut bool) -> bool {
    let mut ends = false;
    for key in keys {
        ends |= *after_ctrl_a && *key == b'x';
        *after_ctrl_a = *key == CTRL_A && !*after_ctrl_a;
    }
    ends
}

/// Reads a rule `TEXT=>INPUT`; in INPUT `\n`, `\r`, `\t`, `\\` and `\xNN` mean what they mean in Rust.
fn parse_send(rule: &str) -> Result<(String, Vec<u8>)> {
    let wrong = || Failure::new(format!("`{rule}` is not of the form TEXT=>INPUT"));
    let (text, input) = rule.split_once("=>").ok_or_else(wrong)?;
    let mut bytes = Vec::new();
    let mut rest = input.chars();
    while let Some(symbol) = rest.next() {
        match symbol {
            '\\' => match rest.next() {
                Some('n') => bytes.push(b'\n'),
                Some('r') => bytes.push(b'\r'),
                Some('t') => bytes.push(b'\t'),
                Some('\\') => bytes.push(b'\\'),
                Some('x') => {
                    let digits: String = rest.by_ref().take(2).collect();
                    if digits.len() < 2 {
                        return Err(wrong());
                    }
                    bytes.push(u8::from_str_radix(&digits, 16).map_err(|_| wrong())?);
                }
                _ => return Err(wrong()),
            },
            symbol => bytes.extend_from_slice(symbol.encode_utf8(&mut [0; 4]).as_bytes()),
        }
    }
    Ok((text.to_owned(), bytes))
}

/// `cargo xtask image`: an image to write to a stick or a CD, or a boot archive.
pub(crate) fn write_image(options: &crate::cli::ImageOptions) -> Result<()> {
    let default = if options.pvh { "basalt.pvh" } else { "basalt.img" };
    let image = options.output.clone().unwrap_or_else(|| paths::target().join(default));
    let recipe = recipe(&options.contents)?;
    let shown = paths::shown(&image);
    if options.pvh {
        recipe.make_archive(&image)?;
        let kernel = paths::shown(&recipe.kernel);
        println!("{kernel} and {shown} ({}) boot by the PVH protocol, without a boot loader:", size(&image));
        println!(
            "    qemu-system-x86_64 -machine q35 -cpu EPYC,+svm -m 1G -nographic -kernel {kernel} -initrd {shown}"
        );
        return Ok(());
    }
    recipe.make(&image)?;
    println!("{shown} ({}) boots from USB stick and CD, with BIOS and UEFI.", size(&image));
    println!(
        "To write it to a USB stick, find the stick's name with `lsblk`; then (ALL DATA ON IT IS LOST):"
    );
    println!("    sudo dd if={shown} of=/dev/sdX bs=4M conv=fsync status=progress");
    Ok(())
}

fn size(file: &Path) -> String {
    format!("{} MiB", std::fs::metadata(file).map(|metadata| metadata.len() >> 20).unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ctrl_a_x_is_seen_even_in_pieces() {
        let mut state = false;
        assert!(!asks_to_end(b"x", &mut state));
        assert!(!asks_to_end(&[b'a', CTRL_A], &mut state));
        assert!(asks_to_end(b"x", &mut state));
        assert!(!asks_to_end(&[CTRL_A, CTRL_A, b'x'], &mut state));
    }

    #[test]
    fn send_rules() {
        let (text, input) = parse_send("login:=>root\\r\\x01k\\\\").expect("valid");
        assert_eq!((text.as_str(), input.as_slice()), ("login:", &b"root\r\x01k\\"[..]));
        for wrong in ["no arrow", "a=>\\q", "a=>\\x1"] {
            assert!(parse_send(wrong).is_err(), "{wrong}");
        }
    }
}
