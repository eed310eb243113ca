//! Bootable images: GRUB, the kernel and the guests in one file for CD and USB stick, BIOS and UEFI.
//!
//! The recipe is small on purpose, because an emulated BIOS reads slowly: only the GRUB modules that the
//! menu needs, no fonts, themes or translations, and files without anything that is not loaded. The files are
//! not compressed: reading 35 MB costs an emulated machine 0.9 G instructions, GRUB's decompressor 2.4 G.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::failure::{Context, Failure, Result};
use crate::guest::{self, Guest, Module};
use crate::machine::Profile;
use crate::{packages, paths, process, progress};

/// GRUB's modules beyond those that grub-mkrescue puts into its core.
const GRUB_MODULES: &str = "multiboot2 normal configfile test cpuid iso9660 fat all_video";
/// The core asks for all partition tables and complains of those that are not there.
pub(crate) const GRUB_PARTITIONS: &str = "part_msdos part_gpt part_acorn part_amiga part_apple part_bsd part_dfly part_dvh part_plan \
    part_sun part_sunpc";
/// The menu, with places for the kernel's options and the guests.
const MENU: &str = "boot/grub/grub.cfg.in";
/// The kernel's path in an image.
const KERNEL: &str = "boot/basalt.elf";
/// A Multiboot2 header must begin within this part of the file.
const MULTIBOOT2_SEARCH: usize = 32768;
const MULTIBOOT2_MAGIC: [u8; 4] = 0xe852_50d6_u32.to_le_bytes();

/// What an image holds.
pub(crate) struct Recipe {
    /// The kernel, as built.
    pub(crate) kernel: PathBuf,
    /// The kernel's own options.
    pub(crate) options: String,
    /// The guests, in the order of their VMs.
    pub(crate) guests: Vec<Guest>,
}

impl Recipe {
    /// Tells Basalt and the selftest guests what they must know of the machine. Options that are there already count more.
    pub(crate) fn suit(&mut self, machine: &Profile) {
        self.options = format!("{} {}", machine.options, self.options).trim().to_owned();
        for guest in self.guests.iter_mut().filter(|guest| guest.selftest) {
            guest.append(&machine.selftest_options);
        }
    }

    /// Makes what the machine boots from: an image, or the archive beside the kernel. Gives its path.
    pub(crate) fn make_for(&self, machine: &Profile, name: &str) -> Result<PathBuf> {
        if machine.boots_archive() {
            let archive = archive_path(name);
            self.make_archive(&archive)?;
            return Ok(archive);
        }
        let image = path(name);
        self.make(&image)?;
        Ok(image)
    }

    /// Makes the image, unless it is there already and made from the same things.
    pub(crate) fn make(&self, image: &Path) -> Result<()> {
        packages::ensure(packages::IMAGE)?;
        self.make_by(image, || self.write(image, &self.files()?))
    }

    /// Makes the boot archive for a loader of the PVH protocol, unless it is there already and made from the same
    /// things; the kernel that goes with it is [`small_kernel_path`].
    pub(crate) fn make_archive(&self, archive: &Path) -> Result<()> {
        self.make_by(archive, || paths::write(archive, &self.archive(&self.files()?)?))
    }

    fn make_by(&self, image: &Path, write: impl FnOnce() -> Result<()>) -> Result<()> {
        let files = self.files()?;
        let stamp_path = image.with_added_extension("stamp");
        let stamp = self.stamp(&files)?;
        if image.is_file() && std::fs::read_to_string(&stamp_path).is_ok_and(|old| old == stamp) {
            return Ok(());
        }
        progress::step(&format!("making {}", paths::shown(image)), write)?;
        paths::write(&stamp_path, stamp.as_bytes())
    }

    /// The files of the image: their paths in it and outside. Guests with the same file share it.
    fn files(&self) -> Result<Vec<(String, PathBuf)>> {
        let mut files = vec![(KERNEL.to_owned(), small_kernel(&self.kernel)?)];
        for guest in &self.guests {
            for (path, file) in guest_files(guest) {
                if !files.iter().any(|(_, other)| *other == file) {
                    files.push((path, file));
                }
            }
        }
        Ok(files)
    }

    fn menu(&self, files: &[(String, PathBuf)]) -> Result<String> {
        let template = paths::read(&paths::root().join(MENU))?;
        let mut modules = String::new();
        for guest in &self.guests {
            for line in module_lines(guest, files, arguments)? {
                writeln!(modules, "    module2 /{line}").context("writing the menu")?;
            }
        }
        Ok(template.replace("@OPTIONS@", &arguments(&self.options)).replace("@MODULES@\n", &modules))
    }

    /// A boot archive: the list, which says what is what, and the guests' files.
    fn archive(&self, files: &[(String, PathBuf)]) -> Result<Vec<u8>> {
        let mut list = format!("options {}\n", self.options);
        for guest in &self.guests {
            for line in module_lines(guest, files, str::to_owned)? {
                writeln!(list, "module {line}").context("writing the list")?;
            }
        }
        let mut archive = guest::Archive::default();
        archive.file(archive::LIST, list.as_bytes());
        for (path, file) in files.iter().filter(|(path, _)| path != KERNEL) {
            archive.file(path, &paths::read_bytes(file)?);
        }
        Ok(archive.finish())
    }

    fn stamp(&self, files: &[(String, PathBuf)]) -> Result<String> {
        let mut stamp = self.menu(files)?;
        for (_, file) in files {
            let metadata = std::fs::metadata(file).context(format_args!("reading {}", paths::shown(file)))?;
            let modified = metadata.modified().context("reading a time stamp")?;
            writeln!(stamp, "{} {} {modified:?}", file.display(), metadata.len())
                .context("writing the stamp")?;
        }
        writeln!(stamp, "{GRUB_MODULES} {GRUB_PARTITIONS}").context("writing the stamp")?;
        Ok(stamp)
    }

    fn write(&self, image: &Path, files: &[(String, PathBuf)]) -> Result<()> {
        let tree = image.with_added_extension(format!("{}.tree", std::process::id()));
        paths::write(&tree.join("boot/grub/grub.cfg"), self.menu(files)?.as_bytes())?;
        for (path, file) in files {
            let copy = tree.join(path);
            paths::create_dir(copy.parent().unwrap_or(&tree))?;
            let copied = std::fs::hard_link(file, &copy).or_else(|_| std::fs::copy(file, &copy).map(drop));
            copied.context(format_args!("copying {}", paths::shown(file)))?;
        }
        let finished = image.with_added_extension(format!("{}.tmp", std::process::id()));
        process::output(
            Command::new("grub-mkrescue")
                .arg("--output")
                .arg(&finished)
                .arg(format!("--install-modules={GRUB_MODULES} {GRUB_PARTITIONS}"))
                .args(["--locales=", "--fonts=", "--themes=", "--compress=no"])
                .arg(&tree),
        )?;
        std::fs::rename(&finished, image).context(format_args!("writing {}", paths::shown(image)))?;
        std::fs::remove_dir_all(&tree).context(format_args!("removing {}", paths::shown(&tree)))
    }
}

/// Where images other than `target/basalt.img` lie.
pub(crate) fn path(name: &str) -> PathBuf {
    paths::target().join("images").join(format!("{name}.img"))
}

/// Where a boot archive lies that is not `target/basalt.pvh`.
pub(crate) fn archive_path(name: &str) -> PathBuf {
    paths::target().join("images").join(format!("{name}.pvh"))
}

/// Where the kernel lies that images are made from.
pub(crate) fn small_kernel_path() -> PathBuf {
    small_path(Path::new("basalt.elf"))
}

/// Where the small form of this kernel lies.
pub(crate) fn small_path(kernel: &Path) -> PathBuf {
    paths::target().join("images").join(kernel.file_name().unwrap_or_default())
}

/// The bytes of a kernel as it is booted: headers and what is loaded of each segment, without symbols, line tables, and the zeros at a
/// segment's end, which no file has to have.
pub(crate) fn size(kernel: &Path) -> Result<u64> {
    Ok(paths::read_bytes(&small_kernel(kernel)?)?.len() as u64)
}

/// Without its symbols and line tables the kernel loads faster; we keep those beside it.
fn small_kernel(kernel: &Path) -> Result<PathBuf> {
    let small =
        guest::compact(&paths::read_bytes(kernel)?).context(format_args!("{}", paths::shown(kernel)))?;
    let head = &small[..small.len().min(MULTIBOOT2_SEARCH)];
    if !head.chunks_exact(8).any(|word| word.starts_with(&MULTIBOOT2_MAGIC)) {
        return Err(Failure::new(format!("{} has no Multiboot2 header", paths::shown(kernel)))
            .next("the linker script must place the header's section first"));
    }
    let path = small_path(kernel);
    paths::write(&path, &small)?;
    Ok(path)
}

fn guest_files(guest: &Guest) -> impl Iterator<Item = (String, PathBuf)> {
    let kernel = Some((format!("guests/{}/kernel", guest.name), guest.kernel.clone()));
    let initrd = guest.initrd.clone().map(|file| (format!("guests/{}/initrd", guest.name), file));
    let modules = guest.modules.iter().enumerate();
    let modules =
        modules.map(|(index, module)| (format!("guests/{}/module{index}", guest.name), module.file.clone()));
    kernel.into_iter().chain(initrd).chain(modules)
}

/// A line for each of a guest's modules: the file's path in the image and what it is. `quote` makes the guest's
/// command line what the reader of the lines takes back.
fn module_lines(
    guest: &Guest,
    files: &[(String, PathBuf)],
    quote: impl Fn(&str) -> String,
) -> Result<Vec<String>> {
    let in_image = |file: &Path| {
        let found = files.iter().find(|(_, other)| other == file);
        found.map(|(path, _)| path).ok_or_else(|| Failure::new("a guest's file is not in the image"))
    };
    let Guest { name, cpus, memory, settings, kernel, initrd, modules, cmdline, selftest: _ } = guest;
    let space = if settings.is_empty() { "" } else { " " };
    let mut lines = vec![format!(
        "{} vm={name} cpus={cpus} memory={memory}{space}{} kernel -- {}",
        in_image(kernel)?,
        quote(settings),
        quote(cmdline)
    )];
    if let Some(initrd) = initrd {
        lines.push(format!("{} vm={name} initrd", in_image(initrd)?));
    }
    for Module { words, file, .. } in modules {
        lines.push(format!("{} vm={name} {}", in_image(file)?, quote(words)));
    }
    Ok(lines.iter().map(|line| line.trim_end().to_owned()).collect())
}

/// Writes a command line so that GRUB's shell passes it on: each argument in single quotes when it holds
/// anything that the shell would act on. Double quotes keep an argument together, as in Linux.
fn arguments(line: &str) -> String {
    let quoted = split_arguments(line).into_iter().map(|argument| {
        let plain = |symbol: char| symbol.is_ascii_alphanumeric() || "-_=.,:/+@%".contains(symbol);
        match argument.chars().all(plain) {
            true => argument,
            false => format!("'{}'", argument.replace('\'', "'\\''")),
        }
    });
    quoted.collect::<Vec<_>>().join(" ")
}

fn split_arguments(line: &str) -> Vec<String> {
    let (mut arguments, mut current, mut quoted) = (Vec::new(), String::new(), false);
    for symbol in line.chars() {
        match symbol {
            '"' => quoted = !quoted,
            ' ' if !quoted => arguments.push(std::mem::take(&mut current)),
            symbol => current.push(symbol),
        }
    }
    arguments.push(current);
    arguments.retain(|argument| !argument.is_empty());
    arguments
}

#[cfg(test)]
mod tests {
    use super::*;

    fn guest(name: &str) -> Guest {
        Guest {
            name: name.to_owned(),
            cpus: 1,
            memory: "256M".to_owned(),
            settings: String::new(),
            modules: Vec::new(),
            kernel: PathBuf::from("/x/vmlinux"),
            initrd: Some(PathBuf::from(format!("/x/{name}"))),
            cmdline: "console=ttyS0 basalt.run=\"sleep 1; dmesg\"".to_owned(),
            selftest: false,
        }
    }

    #[test]
    fn module_lines_follow_the_boot_contract() {
        let files: Vec<_> = guest_files(&guest("demo")).collect();
        assert_eq!(
            module_lines(&guest("demo"), &files, arguments).expect("in the image"),
            [
                "guests/demo/kernel vm=demo cpus=1 memory=256M kernel -- console=ttyS0 'basalt.run=sleep 1; dmesg'",
                "guests/demo/initrd vm=demo initrd",
            ]
        );
    }

    #[test]
    fn the_kernel_reads_an_archive_as_it_was_meant() {
        let folder = paths::target().join("tmp/archive-test");
        let mut guest = guest("demo");
        guest.kernel = folder.join("vmlinux");
        guest.initrd = Some(folder.join("initrd"));
        paths::write(&guest.kernel, b"kernel").expect("written");
        paths::write(&folder.join("initrd"), b"initial").expect("written");
        let files: Vec<_> = guest_files(&guest).collect();
        let recipe = Recipe { kernel: PathBuf::new(), options: "view=all".to_owned(), guests: vec![guest] };
        let bytes = recipe.archive(&files).expect("made");
        let archive = archive::Archive::open(&bytes).expect("whole");
        assert_eq!(archive.options(), "view=all");
        let modules: Vec<_> = archive.modules().map(|module| (module.line, module.bytes)).collect();
        let line = "vm=demo cpus=1 memory=256M kernel -- console=ttyS0 basalt.run=\"sleep 1; dmesg\"";
        assert_eq!(modules, [(line, &b"kernel"[..]), ("vm=demo initrd", b"initial")]);
    }

    #[test]
    fn settings_and_modules_are_told() {
        let mut guest = guest("demo");
        guest.settings = "protocol=pvh e9".to_owned();
        guest.initrd = None;
        guest.modules = vec![Module::of_file("module -- two words", PathBuf::from("/x/file"))];
        let files: Vec<_> = guest_files(&guest).collect();
        let lines = module_lines(&guest, &files, arguments).expect("in the image");
        assert!(lines[0].contains(" memory=256M protocol=pvh e9 kernel -- console=ttyS0 "), "{lines:?}");
        assert_eq!(lines[1], "guests/demo/module0 vm=demo module -- two words");
    }

    #[test]
    fn guests_share_the_same_file() {
        let files: Vec<_> = guest_files(&guest("one")).collect();
        let mut two = guest("two");
        two.initrd = None;
        assert!(
            module_lines(&two, &files, arguments).expect("shared")[0]
                .starts_with("guests/one/kernel vm=two ")
        );
    }

    #[test]
    fn arguments_survive_grubs_shell() {
        assert_eq!(arguments("a=b  quiet"), "a=b quiet");
        assert_eq!(arguments("run=\"it's $HOME\""), "'run=it'\\''s $HOME'");
    }
}
