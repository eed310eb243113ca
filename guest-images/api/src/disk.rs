//! Disks of VMs, as their files describe them.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::amount::Bytes;
use crate::image::Format;

const LARGEST: Bytes = Bytes(64 << 40);
/// What may be asked for of operations, and of bytes in a second.
const IOPS: std::ops::RangeInclusive<u32> = 1..=1_000_000;
const LEAST_BANDWIDTH: Bytes = Bytes(64 << 10);

/// A disk: in memory, with a file's content at first; or, where it has a format, in the file.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Disk {
    /// The file.
    pub file: String,
    /// How the disk's content lies in the file. Where nothing is said, the file is copied into memory, and what the VM writes is lost with it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub format: Option<Format>,
    /// How large it is to be made where there is no such file: of zeros, which take no room, or of what is in `backing`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub size: Option<Bytes>,
    /// The VM cannot write to it.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub read_only: bool,
    /// Of a qcow2 file: the image in which lies what was not written to this one yet. It is only read.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub backing: Option<String>,
    /// How the content lies in that.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub backing_format: Option<Format>,
    /// Operations in a second at most, of up to 64 KiB each; what is larger counts as several.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub iops: Option<u32>,
    /// Bytes that are read and written in a second at most.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bandwidth: Option<Bytes>,
}

impl Disk {
    /// One in memory with the content of a file.
    #[must_use]
    pub fn of_file(file: &str) -> Self {
        Self {
            file: file.to_owned(),
            format: None,
            size: None,
            read_only: false,
            backing: None,
            backing_format: None,
            iops: None,
            bandwidth: None,
        }
    }

    /// Checks what no single value says.
    pub(crate) fn check(&self) -> Result<(), String> {
        check_path("disks.file", &self.file)?;
        self.check_backing()?;
        if let Some(size) = self.size.filter(|size| size.0 == 0 || size.0 > LARGEST.0) {
            return Err(format!("disks.size: {size} is out of range: 1K to {LARGEST}"));
        }
        if self.format.is_none() {
            let only = [
                ("size", self.size.is_some()),
                ("iops", self.iops.is_some()),
                ("bandwidth", self.bandwidth.is_some()),
            ];
            return match only.iter().find(|(_, is_said)| *is_said) {
                Some((key, _)) => {
                    Err(format!("disks.{key}: it is for disks in files: say their format, too"))
                }
                None => Ok(()),
            };
        }
        self.check_limits()
    }

    /// Checks how much it may do.
    ///
    /// # Errors
    /// What is out of range, with its key.
    pub fn check_limits(&self) -> Result<(), String> {
        if let Some(iops) = self.iops.filter(|iops| !IOPS.contains(iops)) {
            return Err(format!("disks.iops: {iops} is out of range: {} to {}", IOPS.start(), IOPS.end()));
        }
        if let Some(rate) = self.bandwidth.filter(|rate| *rate < LEAST_BANDWIDTH || *rate > LARGEST) {
            return Err(format!("disks.bandwidth: {rate} is out of range: {LEAST_BANDWIDTH} to {LARGEST}"));
        }
        Ok(())
    }

    fn check_backing(&self) -> Result<(), String> {
        let Some(backing) = &self.backing else {
            return match self.backing_format {
                Some(_) => Err("disks.backing_format: there is no backing".to_owned()),
                None => Ok(()),
            };
        };
        check_path("disks.backing", backing)?;
        if self.format != Some(Format::Qcow2) {
            return Err("disks.backing: only disks of format \"qcow2\" have one".to_owned());
        }
        if self.backing_format.is_none() {
            return Err("disks.backing: say its backing_format, too: \"raw\" or \"qcow2\"".to_owned());
        }
        if *backing == self.file {
            return Err("disks.backing: it is the disk's own file; name another one".to_owned());
        }
        Ok(())
    }
}

/// A file is in the VM's folder, or is one of the node's images.
pub(crate) fn check_path(key: &str, name: &str) -> Result<(), String> {
    let below = name.strip_prefix("/data/images/").unwrap_or(name);
    let is_plain = |part: &str| !matches!(part, "" | "." | "..") && !part.contains(['\0', '\n']);
    if name.len() <= 255 && below.split('/').all(is_plain) {
        return Ok(());
    }
    Err(format!(
        "{key}: '{}' is no file of the VM's: name one in its folder, or below /data/images",
        name.escape_debug()
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn disk(text: &str) -> Result<Disk, String> {
        let disk: Disk = toml::from_str(text).map_err(|error| error.to_string())?;
        disk.check().map(|()| disk)
    }

    #[test]
    fn what_fits_together_is_taken() {
        let overlay = "file = 'a'\nformat = 'qcow2'\nsize = '8G'\nbacking = '/data/images/base.img'\nbacking_format = 'raw'\niops = 500\nbandwidth = '10M'";
        let read = disk(overlay).expect("valid");
        assert_eq!((read.iops, read.bandwidth), (Some(500), Some(Bytes(10 << 20))));
        assert!(disk("file = 'a'").is_ok() && disk("file = 'a'\nformat = 'raw'\nsize = '1M'").is_ok());
    }

    #[test]
    fn what_does_not_is_named() {
        for (text, culprit) in [
            ("file = '/etc/passwd'", "disks.file"),
            ("file = 'a'\nsize = '1M'", "disks.size: it is for disks in files"),
            ("file = 'a'\niops = 5", "disks.iops: it is"),
            ("file = 'a'\nformat = 'raw'\niops = 0", "disks.iops: 0 is out of range"),
            ("file = 'a'\nformat = 'raw'\nbandwidth = '1K'", "disks.bandwidth: 1K is out of range"),
            ("file = 'a'\nformat = 'raw'\nbacking = 'b'\nbacking_format = 'raw'", "only disks of format"),
            ("file = 'a'\nformat = 'qcow2'\nbacking = 'b'", "backing_format"),
            ("file = 'a'\nformat = 'qcow2'\nbacking = 'a'\nbacking_format = 'raw'", "own file"),
            (
                "file = 'a'\nformat = 'qcow2'\nbacking = '../b'\nbacking_format = 'raw'",
                "disks.backing: '../b'",
            ),
            ("file = 'a'\nformat = 'qcow2'\nbacking_format = 'raw'", "there is no backing"),
            ("file = 'a'\nformat = 'raw'\nsize = '65T'", "disks.size: 65T"),
        ] {
            let error = disk(text).expect_err(text);
            assert!(error.contains(culprit), "{text:?}: {error}");
        }
    }
}
