//! Names for the addresses in a panic's epitaph, from the kernel's symbols and line tables.

use std::path::Path;

use ::tests::log::Log;
use addr2line::Loader;

use crate::paths;

/// Where the kernel lives: the top 2 GiB of the address space.
const KERNEL_START: u64 = 0xffff_ffff_8000_0000;
const PREFIX: &str = "0x";
/// Begins a line of return addresses.
const BACKTRACE: &str = "backtrace:";

/// The addresses of the kernel in the lines from the panic on, in order, each with its place in the source.
pub(crate) fn epitaph(log: &Log, kernel: &Path) -> Vec<String> {
    let lines = log.kernel().skip_while(|line| !line.contains(::tests::log::PANIC));
    let addresses = lines.flat_map(|line| addresses(line).map(|address| Place::of(line, address)));
    let addresses: Vec<_> = addresses.filter(|place| place.address >= KERNEL_START).collect();
    let loader = match Loader::new(kernel) {
        Ok(loader) => loader,
        Err(error) => return vec![format!("no symbols: reading {}: {error}", paths::shown(kernel))],
    };
    addresses.into_iter().flat_map(|place| frames(&loader, place)).collect()
}

/// An address in a log.
#[derive(Clone, Copy)]
struct Place {
    /// As it is written.
    address: u64,
    /// Of the instruction that is meant: a call comes before the address to which it returns.
    instruction: u64,
}

impl Place {
    fn of(line: &str, address: u64) -> Self {
        let returns = line.starts_with(BACKTRACE);
        Self { address, instruction: address.saturating_sub(u64::from(returns)) }
    }
}

/// The hexadecimal numbers in a line.
fn addresses(line: &str) -> impl Iterator<Item = u64> {
    line.split(PREFIX).skip(1).filter_map(|rest| {
        let digits: String =
            rest.chars().filter(|symbol| *symbol != '_').take_while(char::is_ascii_hexdigit).collect();
        u64::from_str_radix(&digits, 16).ok()
    })
}

/// An address lies in a function, and in those that were inlined there: the innermost comes first.
fn frames(loader: &Loader, Place { address, instruction }: Place) -> Vec<String> {
    let root = format!("{}/", paths::root().display());
    let mut shown = Vec::new();
    let symbol = || loader.find_symbol(instruction).map(demangled);
    for (name, place) in functions(loader, instruction) {
        let name = name.or_else(symbol).unwrap_or_else(|| "?".to_owned());
        let place = place.map_or_else(String::new, |(file, line)| {
            format!(" at {}:{line}", file.strip_prefix(&root).unwrap_or(&file))
        });
        shown.push(format!("{address:#x} {name}{place}"));
    }
    if shown.is_empty() {
        let name = symbol().unwrap_or_else(|| "?".to_owned());
        shown.push(format!("{address:#x} {name}"));
    }
    shown
}

/// A file, and a line in it.
type Line = (String, u32);

/// The functions in which an instruction is, from the innermost that was inlined: names, and where in which file.
pub(crate) fn functions(loader: &Loader, instruction: u64) -> Vec<(Option<String>, Option<Line>)> {
    let mut found = Vec::new();
    if let Ok(mut frames) = loader.find_frames(instruction) {
        while let Ok(Some(frame)) = frames.next() {
            let name = frame.function.as_ref().and_then(|function| function.raw_name().ok());
            let place = frame.location.and_then(|location| Some((location.file?.to_owned(), location.line?)));
            found.push((name.map(|name| demangled(&name)), place));
        }
    }
    found
}

pub(crate) fn demangled(name: &str) -> String {
    format!("{:#}", rustc_demangle::demangle(name))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_found_in_a_line() {
        let line = "backtrace: 0xffffffff80201234 rip=0xffff_ffff_8000_0001, size 0x10)";
        assert_eq!(addresses(line).collect::<Vec<_>>(), [0xffff_ffff_8020_1234, 0xffff_ffff_8000_0001, 0x10]);
    }

    #[test]
    fn our_own_functions_have_names() {
        let ourselves = std::env::current_exe().expect("a path");
        let bytes = std::fs::read(&ourselves).expect("readable");
        let file = object::File::parse(&*bytes).expect("an ELF file");
        let symbol = object::Object::symbols(&file)
            .find(|symbol| {
                object::ObjectSymbol::name(symbol)
                    .is_ok_and(|name| name.contains("our_own_functions_have_names"))
            })
            .expect("a symbol");
        let loader = Loader::new(&ourselves).expect("readable");
        let frames = frames(&loader, Place::of("rip=0x0", object::ObjectSymbol::address(&symbol)));
        assert!(frames.iter().any(|frame| frame.contains("our_own_functions_have_names")), "{frames:?}");
    }

    #[test]
    fn a_return_address_belongs_to_the_call_before_it() {
        assert_eq!(Place::of("backtrace: 0x10", 0x10).instruction, 0xf);
        assert_eq!(Place::of("KERNEL PANIC: page fault at 0x10", 0x10).instruction, 0x10);
    }

    #[test]
    fn guests_cannot_put_addresses_into_an_epitaph() {
        let mut log = Log::default();
        log.push(b"[demo] KERNEL PANIC 0xffffffff80201234\n");
        assert!(epitaph(&log, &std::env::current_exe().expect("a path")).is_empty());
    }
}
