//! Hands the linker script to the linker where the bootable binary is built.

fn main() {
    println!("cargo:rerun-if-changed=linker.ld");
    let bare_metal = std::env::var("CARGO_CFG_TARGET_OS").is_ok_and(|os| os == "none");
    if bare_metal {
        let folder = std::env::var("CARGO_MANIFEST_DIR").unwrap_or_else(|_| ".".into());
        println!("cargo:rustc-link-arg-bins=-T{folder}/linker.ld");
        // Pages are 4 KiB; without this the linker aligns segments for larger ones and the file grows.
        println!("cargo:rustc-link-arg-bins=-zmax-page-size=4096");
    }
}
