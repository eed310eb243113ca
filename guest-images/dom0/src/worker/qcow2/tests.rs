//! Images that are whole, broken, and made to do harm.

use std::fs::{self, File, OpenOptions};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};

use api::image::Format;
use proptest::prelude::*;

use crate::worker::Source;
use crate::worker::create::create;
use crate::worker::image::{Backing, Image};

const SIZE: u64 = 8 << 20;
const CLUSTER: u64 = 64 << 10;
const QCOW2: Source = Source { format: Format::Qcow2, direct: false };
const RAW: Source = Source { format: Format::Raw, direct: false };
/// Fields of the header.
const VERSION: u64 = 4;
const BACKING_OFFSET: u64 = 8;
const CLUSTER_BITS: u64 = 20;
const SIZE_AT: u64 = 24;
const CRYPT: u64 = 32;
const L1_SIZE: u64 = 36;
const L1_AT: u64 = 40;
const REFCOUNTS_AT: u64 = 48;
const REFCOUNT_CLUSTERS: u64 = 56;
const SNAPSHOTS: u64 = 60;
const FEATURES: u64 = 72;
const REFCOUNT_ORDER: u64 = 96;
const HEADER_LENGTH: u64 = 100;

/// A file of its own for a test.
struct Place(PathBuf);

impl Place {
    fn new() -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        Self(std::env::temp_dir().join(format!("basaltd-{}-qcow2-{number}", std::process::id())))
    }

    fn file(&self) -> File {
        let options = OpenOptions::new().read(true).write(true).create(true).truncate(false).open(&self.0);
        options.expect("a file")
    }

    /// With a new image, in which something was written.
    fn with_image(backing: Option<(&str, Format)>) -> Self {
        let place = Self::new();
        create(place.file(), Format::Qcow2, SIZE, backing).expect("room");
        place
    }

    fn written() -> Self {
        let place = Self::with_image(None);
        let image = place.open(false).expect("whole");
        image.write(0, &[1; 512]).expect("room");
        image.write(1024, &[2; 4096]).expect("room");
        image.flush().expect("room");
        place
    }

    fn open(&self, read_only: bool) -> std::io::Result<Image> {
        Image::open((self.file(), QCOW2), read_only, None)
    }

    fn put(&self, at: u64, bytes: &[u8]) -> &Self {
        self.file().write_all_at(bytes, at).expect("room");
        self
    }

    fn number(&self, at: u64) -> u64 {
        let mut bytes = [0; 8];
        self.file().read_exact_at(&mut bytes, at).expect("it is there");
        u64::from_be_bytes(bytes)
    }

    /// What is wrong with it.
    #[track_caller]
    fn refused(&self) -> String {
        match self.open(false) {
            Ok(_) => panic!("it was taken"),
            Err(error) => error.to_string(),
        }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.0);
    }
}

/// What QEMU's own program says of an image, where there is that.
fn is_whole(path: &Path) -> bool {
    match Command::new("qemu-img").args(["check", "-q", "-f", "qcow2"]).arg(path).output() {
        Ok(checked) => checked.status.success(),
        Err(_) => true,
    }
}

fn read(image: &Image, sector: u64) -> [u8; 512] {
    let mut bytes = [0xee; 512];
    image.read(sector, &mut bytes).expect("it is there");
    bytes
}

#[test]
fn new_images_are_whole_and_stay_so() {
    let place = Place::written();
    assert!(is_whole(&place.0));
    let image = place.open(false).expect("whole");
    assert_eq!(image.sectors(), SIZE / 512);
    assert_eq!((read(&image, 0), read(&image, 1), read(&image, 1031)), ([1; 512], [0; 512], [2; 512]));
    image.discard(1024, 128).expect("it can be");
    image.zero(0, 128).expect("it can be");
    image.flush().expect("room");
    drop(image);
    assert!(is_whole(&place.0));
    let place = Place::new();
    create(place.file(), Format::Raw, SIZE, None).expect("room");
    assert_eq!(place.file().metadata().expect("it is there").len(), SIZE);
}

#[test]
fn an_image_is_over_the_one_that_its_owner_says() {
    // The lower one is smaller, and no whole clusters.
    let base = Place::new();
    base.put(0, &[7; 70_000 / 512 * 512]);
    let name = base.0.to_string_lossy().into_owned();
    let top = Place::with_image(Some((&name, Format::Raw)));
    assert!(is_whole(&top.0));
    let names = [name.clone()];
    let over = |source| {
        let backing = Backing { file: File::open(&base.0).expect("it is there"), source, names: &names };
        Image::open((top.file(), QCOW2), false, Some(backing))
    };
    {
        let image = over(RAW).expect("as it was said");
        assert_eq!((read(&image, 0), read(&image, 135), read(&image, 200)), ([7; 512], [7; 512], [0; 512]));
        image.write(1, &[9; 512]).expect("room");
        image.flush().expect("room");
    }
    let image = over(RAW).expect("as it was said");
    assert_eq!((read(&image, 0), read(&image, 1), read(&image, 2)), ([7; 512], [9; 512], [7; 512]));
    drop(image);
    assert_eq!(fs::read(&base.0).expect("it is there"), vec![7; 70_000 / 512 * 512], "it is only read");
    assert!(top.refused().contains(&format!("is over '{name}', which its description does not name")));
    let Err(error) = over(QCOW2) else { panic!("of another format") };
    assert!(error.to_string().contains("what it is over is 'raw'"), "{error}");
    let others = ["base.img".to_owned()];
    let backing = Backing { file: base.file(), source: RAW, names: &others };
    let Err(error) = Image::open((top.file(), QCOW2), false, Some(backing)) else { panic!("another one") };
    assert!(error.to_string().contains("says something else"), "{error}");
    let alone = Place::with_image(None);
    let backing = Backing { file: base.file(), source: RAW, names: &names };
    let Err(error) = Image::open((alone.file(), QCOW2), false, Some(backing)) else {
        panic!("it is over none")
    };
    assert!(error.to_string().contains("over no other one"), "{error}");
}

/// A chain goes one down, and not in circles.
#[test]
fn what_is_below_is_over_nothing() {
    let middle = Place::with_image(Some(("elsewhere", Format::Raw)));
    let name = middle.0.to_string_lossy().into_owned();
    let top = Place::with_image(Some((&name, Format::Qcow2)));
    let names = [name];
    let backing = Backing { file: middle.file(), source: QCOW2, names: &names };
    let Err(error) = Image::open((top.file(), QCOW2), false, Some(backing)) else { panic!("a third one") };
    assert!(error.to_string().contains("backing image: the qcow2 image is over 'elsewhere'"), "{error}");
    // One that is over itself.
    let own = Place::new();
    let name = own.0.to_string_lossy().into_owned();
    create(own.file(), Format::Qcow2, SIZE, Some((&name, Format::Qcow2))).expect("room");
    let names = [name];
    let backing = Backing { file: own.file(), source: QCOW2, names: &names };
    assert!(Image::open((own.file(), QCOW2), false, Some(backing)).is_err());
}

#[test]
fn what_is_broken_is_told_by_its_name() {
    let far = (1_u64 << 60).to_be_bytes();
    let cases: [(u64, &[u8], &str); 20] = [
        (0, b"no", "does not begin as one"),
        (VERSION, &[0, 0, 0, 4], "version 4"),
        (CLUSTER_BITS, &[0, 0, 0, 0], "clusters of 2^0"),
        (CLUSTER_BITS, &[0, 0, 0, 63], "clusters of 2^63"),
        (CLUSTER_BITS, &[255; 4], "clusters of"),
        (SIZE_AT, &far, "bytes"),
        (SIZE_AT, &(1_u64 << 45).to_be_bytes(), "first table has"),
        (CRYPT, &[0, 0, 0, 2], "encrypted"),
        (L1_SIZE, &[255; 4], "first table has"),
        (L1_SIZE, &[0; 4], "first table has"),
        (L1_AT, &far, "first table cannot be"),
        (L1_AT, &[0, 0, 0, 0, 0, 3, 0, 1], "first table cannot be"),
        (L1_AT, &[0; 8], "first table cannot be"),
        (REFCOUNTS_AT, &far, "refcount table cannot be"),
        (REFCOUNT_CLUSTERS, &[0; 4], "refcount table has 0"),
        (REFCOUNT_CLUSTERS, &[255; 4], "refcount table has"),
        (SNAPSHOTS, &[0, 0, 0, 1], "snapshots"),
        (REFCOUNT_ORDER, &[0, 0, 0, 7], "refcounts of 2^7"),
        (HEADER_LENGTH, &[0, 1, 0, 8], "a header of"),
        (BACKING_OFFSET, &far, "backing file has no place"),
    ];
    for (at, bytes, culprit) in cases {
        let place = Place::written();
        // The name of what is below it has a length then.
        if at == BACKING_OFFSET {
            place.put(16, &[0, 0, 0, 9]);
        }
        let told = place.put(at, bytes).refused();
        assert!(told.contains(culprit), "{culprit}: {told}");
    }
    for (bit, culprit) in [
        (0, "not closed"),
        (1, "corrupt"),
        (2, "another file"),
        (3, "compressed"),
        (4, "parts"),
        (40, "unknown"),
    ] {
        let told = Place::written().put(FEATURES, &(1_u64 << bit).to_be_bytes()).refused();
        assert!(told.contains(culprit), "{culprit}: {told}");
    }
    let short = Place::new();
    for length in [0, 4, 71, 103] {
        short.file().set_len(length).expect("room");
        assert!(short.refused().contains("shorter"), "{length}");
        short.put(0, b"QFI\xfb\0\0\0\x03");
    }
}

#[test]
fn a_cluster_is_one_thing_only() {
    let whole = Place::written();
    let l1 = whole.number(L1_AT);
    let l2 = whole.number(l1) & 0x00ff_ffff_ffff_fe00;
    let reftable = whole.number(REFCOUNTS_AT);
    let block = whole.number(reftable);
    let first = whole.number(l2) & 0x00ff_ffff_ffff_fe00;
    assert!(l2 != 0 && block != 0 && first != 0);
    let copied = 1_u64 << 63;
    for (at, entry, culprit) in [
        (l1, copied, ""),
        (l1, copied | l1, "a second table at"),
        (l1, copied | reftable, "something else as well"),
        (l1, copied | first, "second table has the entry"),
        (l1, copied | (l2 + 512), "cannot be at"),
        (l1, copied | 1 << 50, "behind its end"),
        (l1, 1, "first table has the entry"),
        (l2, copied | l2, "something else as well"),
        (l2, copied | l1, "something else as well"),
        (l2, copied | (first + 512), "cannot be at"),
        (l2 + 8, copied | first, "something else as well"),
        (l2, copied | 1 << 50, "behind its end"),
        (l2, 1 << 60, "second table has the entry"),
        (l2, 1 << 62 | 1 << 53, "compressed bytes cannot be"),
        (reftable, reftable, "something else as well"),
        (reftable, l1, "something else as well"),
        (reftable, 0, "counted as free"),
        (reftable, 1 << 50, "behind its end"),
        (block, 0, "counted as free"),
    ] {
        let place = Place::new();
        fs::copy(&whole.0, &place.0).expect("room");
        place.put(at, &entry.to_be_bytes());
        match culprit {
            "" => assert!(place.open(false).is_ok(), "what it has lost is lost"),
            culprit => {
                let told = place.refused();
                assert!(told.contains(culprit), "{at:#x} {entry:#x}: {told}");
            }
        }
    }
    // Cut off in the middle of a table.
    let place = Place::new();
    fs::copy(&whole.0, &place.0).expect("room");
    place.file().set_len(l2 + CLUSTER / 2).expect("it can be");
    assert!(!place.refused().is_empty());
}

/// Works with an image as a guest would, whatever comes of it.
fn use_it(image: &Image) {
    let mut bytes = [0; 4096];
    let last = image.sectors().saturating_sub(8);
    for sector in [0, 1024, last / 2, last] {
        let _ = image.read(sector, &mut bytes);
        let _ = image.write(sector, &bytes);
        let _ = image.discard(sector, 8);
        let _ = image.zero(sector, 8);
    }
    let _ = image.flush();
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, ..ProptestConfig::default() })]

    /// Whatever stands in an image, nothing panics and all comes to an end.
    #[test]
    fn any_damage_ends_in_words(
        damage in proptest::collection::vec((0_usize..5, 0_u64..128, any::<u8>()), 1..6),
        read_only: bool,
    ) {
        let place = Place::written();
        let l1 = place.number(L1_AT);
        let l2 = place.number(l1) & 0x00ff_ffff_ffff_fe00;
        let reftable = place.number(REFCOUNTS_AT);
        let regions = [0, l1, l2, reftable, place.number(reftable)];
        for (region, at, byte) in damage {
            place.put(regions[region] + at, &[byte]);
        }
        if let Ok(image) = place.open(read_only) {
            use_it(&image);
        }
        prop_assert!(place.file().metadata().expect("it is there").len() < 1 << 30);
    }
}
