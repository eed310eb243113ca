//! Pieces of machine code that tests place where they want: in user pages, across a page boundary, at a breakpoint.

/// Defines a function that returns the bytes of an assembled, position-independent piece of code (Intel syntax).
/// Its symbols carry the line number, so that two files may use one name, though not on lines of the same number.
#[macro_export]
macro_rules! snippet {
    ($name:ident: $($line:literal),+ $(,)?) => {
        ::core::arch::global_asm!(
            ".pushsection .rodata.snippets, \"a\"",
            concat!("snippet_", stringify!($name), "_", line!(), ":"),
            $($line,)+
            concat!("snippet_", stringify!($name), "_", line!(), "_end:"),
            concat!(".global snippet_", stringify!($name), "_", line!()),
            concat!(".global snippet_", stringify!($name), "_", line!(), "_end"),
            ".popsection",
        );

        fn $name() -> &'static [u8] {
            let (start, end): (*const u8, *const u8);
            // SAFETY: takes two addresses.
            unsafe {
                ::core::arch::asm!(
                    concat!("lea {}, [rip + snippet_", stringify!($name), "_", line!(), "]"),
                    concat!("lea {}, [rip + snippet_", stringify!($name), "_", line!(), "_end]"),
                    out(reg) start, out(reg) end, options(nomem, nostack, preserves_flags)
                );
            }
            // SAFETY: the bytes between both labels are constants of the image.
            unsafe { ::core::slice::from_raw_parts(start, end.addr() - start.addr()) }
        }
    };
}

/// Calls code at an address with one argument, by the C calling convention.
pub fn call(address: u64, argument: u64) -> u64 {
    // SAFETY: the code is the test's, which keeps the calling convention or leaves through its guard.
    unsafe {
        let function: extern "C" fn(u64) -> u64 = core::mem::transmute(address);
        function(argument)
    }
}
