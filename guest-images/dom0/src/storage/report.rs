//! What the storage process tells: a line for each disk, and one for the node's data.

/// What is known of the machine's disks.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub(crate) struct Report {
    /// The disks.
    pub(crate) disks: Vec<Disk>,
    /// What becomes of data; `None` while that is not clear yet.
    pub(crate) data: Option<Data>,
}

/// A disk.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct Disk {
    /// As the kernel calls it.
    pub(crate) name: String,
    /// Its size in bytes.
    pub(crate) bytes: u64,
}

/// Where the node keeps what is to last.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) enum Data {
    /// On this block device.
    Mounted(String),
    /// The block device is there, and cannot be mounted.
    Refused(String),
    /// Nowhere: it is gone with the next boot.
    Nowhere,
}

/// The lines.
pub(crate) fn write(report: &Report) -> String {
    let mut text: String =
        report.disks.iter().map(|Disk { name, bytes }| format!("disk {name} {bytes}\n")).collect();
    match &report.data {
        Some(Data::Mounted(device)) => text += &format!("data mounted {device}\n"),
        Some(Data::Refused(device)) => text += &format!("data refused {device}\n"),
        Some(Data::Nowhere) => text += "data nowhere\n",
        None => {}
    }
    text
}

/// Reads such lines; what is none of them is left out.
pub(crate) fn read(text: &str) -> Report {
    let mut report = Report::default();
    for line in text.lines() {
        match line.split(' ').collect::<Vec<_>>()[..] {
            ["disk", name, bytes] => {
                let bytes = bytes.parse().unwrap_or_default();
                report.disks.push(Disk { name: name.to_owned(), bytes });
            }
            ["data", "mounted", device] => report.data = Some(Data::Mounted(device.to_owned())),
            ["data", "refused", device] => report.data = Some(Data::Refused(device.to_owned())),
            ["data", "nowhere"] => report.data = Some(Data::Nowhere),
            _ => {}
        }
    }
    report
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_can_be_read() {
        let disks = vec![Disk { name: "sda".to_owned(), bytes: 1 << 40 }];
        let device = || "sda1".to_owned();
        for data in [None, Some(Data::Nowhere), Some(Data::Mounted(device())), Some(Data::Refused(device()))]
        {
            let report = Report { disks: disks.clone(), data };
            assert_eq!(read(&write(&report)), report);
        }
        assert_eq!(read("disk sda\nx\n\n"), Report::default());
    }
}
