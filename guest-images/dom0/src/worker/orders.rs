//! Orders are carried out by a few threads, and answered as they are done.

use std::io::{ErrorKind, Result};
use std::sync::{Mutex, PoisonError, mpsc};
use std::thread;
use std::time::{Duration, Instant};

use abi::{DiskAnswer, DiskOrder, DiskStatus, DiskVerb};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fd::BorrowedFd;
use rustix::io::Errno;
use rustix::net::{RecvFlags, SendFlags, recv, send};
use vm_memory::{MmapRegion, VolatileMemory};

use super::MESSAGE_BYTES;
use super::image::{Image, SECTOR};
use super::message::{Limit, Message};
use super::queue::Queue;
use super::throttle::Limits;
use crate::log;

/// Slots of a window, and bytes of each.
const SLOTS: usize = 32;
const SLOT_BYTES: usize = 64 << 10;
/// All of it.
pub(super) const WINDOW_BYTES: usize = SLOTS * SLOT_BYTES;
/// Orders that are carried out at the same time.
const THREADS: usize = 4;

/// A guest whose image is broken can ask for the same sector as often as it likes.
static FAILURES: log::Limit = log::Limit::new();

/// What orders are about.
pub(super) struct Orders<'a> {
    /// By their numbers.
    pub(super) images: &'a [Option<Image>],
    pub(super) window: &'a MmapRegion,
    /// The same.
    pub(super) limits: &'a [Limits],
}

impl Orders<'_> {
    /// Hears orders and answers them, until the hub is gone.
    ///
    /// # Errors
    /// It cannot be heard, or says what is no order.
    pub(super) fn serve(&self, socket: BorrowedFd<'_>) -> Result<()> {
        let (give, take) = mpsc::channel::<DiskOrder>();
        let take = &Mutex::new(take);
        thread::scope(|scope| {
            for _ in 0..THREADS {
                scope.spawn(move || {
                    let mut buffer = vec![0; SLOT_BYTES];
                    loop {
                        let next = take.lock().unwrap_or_else(PoisonError::into_inner).recv();
                        let Ok(order) = next else { return };
                        let answer =
                            DiskAnswer { slot: order.slot, status: self.carry_out(&order, &mut buffer) };
                        // A hub that is gone is seen where orders are heard.
                        let _ = send(socket, &answer.to_bytes(), SendFlags::empty());
                    }
                });
            }
            let heard = self.hear(socket, |order| give.send(order).is_ok());
            drop(give);
            heard
        })
    }

    /// Hears orders until the other side is gone, or nobody takes them any more, and gives each when its disk's limits let it pass.
    fn hear(&self, socket: BorrowedFd<'_>, mut give: impl FnMut(DiskOrder) -> bool) -> Result<()> {
        let mut queue = Queue::new(self.limits.iter().copied());
        let begun = Instant::now();
        let mut bytes = [0; MESSAGE_BYTES];
        loop {
            let wake = match queue.next(begun.elapsed()) {
                Ok(order) if give(order) => continue,
                Ok(_) => return Ok(()),
                Err(wake) => wake,
            };
            if let Some(wake) = wake
                && !comes(socket, wake.saturating_sub(begun.elapsed()))?
            {
                continue;
            }
            let (count, _) = recv(socket, &mut bytes, RecvFlags::empty())?;
            if count == 0 {
                return Ok(());
            }
            match Message::read(bytes.get(..count).unwrap_or_default())? {
                Message::Limit(Limit { disk, limits }) => queue.limit(disk, limits),
                Message::Orders(orders) => {
                    let (orders, rest) = orders.as_chunks::<{ DiskOrder::BYTES }>();
                    if !rest.is_empty() {
                        return Err(ErrorKind::InvalidData.into());
                    }
                    for order in orders {
                        let order = DiskOrder::from_bytes(order).map_err(|_| ErrorKind::InvalidData)?;
                        if queue.add(order).is_some_and(|order| !give(order)) {
                            return Ok(());
                        }
                    }
                }
            }
        }
    }

    fn carry_out(&self, order: &DiskOrder, buffer: &mut [u8]) -> DiskStatus {
        let Some(Some(image)) = self.images.get(usize::from(order.disk)) else { return DiskStatus::Failed };
        match self.try_to(image, order, buffer) {
            Ok(()) => DiskStatus::Done,
            Err(error) => match error.kind() {
                ErrorKind::StorageFull | ErrorKind::QuotaExceeded => DiskStatus::NoRoom,
                ErrorKind::Unsupported => DiskStatus::Unsupported,
                _ => {
                    FAILURES.error(&format!("disk {}: {:?}: {error}", order.disk, order.verb));
                    DiskStatus::Failed
                }
            },
        }
    }

    fn try_to(&self, image: &Image, order: &DiskOrder, buffer: &mut [u8]) -> Result<()> {
        let DiskOrder { sector, sectors, .. } = *order;
        match order.verb {
            DiskVerb::Flush => return image.flush(),
            DiskVerb::Discard => return image.discard(sector, sectors.into()),
            DiskVerb::Zero | DiskVerb::ZeroUnmap => return image.zero(sector, sectors.into()),
            DiskVerb::Read | DiskVerb::Write => {}
        }
        let bytes = (sectors as usize).saturating_mul(SECTOR as usize);
        let buffer = buffer.get_mut(..bytes).ok_or(ErrorKind::InvalidInput)?;
        let place = usize::from(order.slot) * SLOT_BYTES;
        let place = self.window.get_slice(place, bytes).map_err(|_| ErrorKind::InvalidInput)?;
        if order.verb == DiskVerb::Read {
            image.read(sector, buffer)?;
            place.copy_from(buffer);
            return Ok(());
        }
        place.copy_to(buffer);
        image.write(sector, buffer)
    }
}

/// Whether something comes in that time.
fn comes(socket: BorrowedFd<'_>, time: Duration) -> Result<bool> {
    let time = Timespec::try_from(time).map_err(|_| ErrorKind::InvalidInput)?;
    match poll(&mut [PollFd::from_borrowed_fd(socket, PollFlags::IN)], Some(&time)) {
        Ok(ready) => Ok(ready != 0),
        Err(Errno::INTR) => Ok(false),
        Err(error) => Err(error.into()),
    }
}

#[cfg(test)]
mod tests {
    use std::fs::{self, OpenOptions};
    use std::os::fd::AsFd;

    use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair};

    use api::image::Format;

    use super::super::Source;
    use super::*;

    const LIMITS: [Limits; 2] = [Limits { iops: None, bandwidth: None }; 2];

    #[test]
    fn orders_are_carried_out_and_answered() {
        let path = std::env::temp_dir().join(format!("basaltd-{}-orders", std::process::id()));
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(true)
            .open(&path)
            .expect("a file");
        file.set_len(1 << 20).expect("room");
        let source = Source { format: Format::Raw, direct: false };
        // Number 0 is none of this process.
        let images = [None, Some(Image::open((file, source), false, None).expect("a disk"))];
        let window = MmapRegion::new(WINDOW_BYTES).expect("memory");
        let (hub, worker) =
            socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)
                .expect("sockets");
        let order =
            |slot, verb, sector, sectors| DiskOrder { slot, disk: 1, verb, sectors, sector, number: 0 };
        thread::scope(|scope| {
            let orders = Orders { images: &images, window: &window, limits: &LIMITS };
            let served = scope.spawn(move || orders.serve(worker.as_fd()));
            let ask = |orders: &[DiskOrder]| {
                let bytes: Vec<u8> = orders.iter().flat_map(DiskOrder::to_bytes).collect();
                Message::Orders(&bytes).send(&hub).expect("it hears");
                let mut answers: Vec<_> = orders
                    .iter()
                    .map(|_| {
                        let mut bytes = [0; DiskAnswer::BYTES];
                        recv(&hub, &mut bytes, RecvFlags::empty()).expect("it answers");
                        let answer = DiskAnswer::from_bytes(&bytes).expect("an answer");
                        (answer.slot, answer.status)
                    })
                    .collect();
                answers.sort_by_key(|(slot, _)| *slot);
                answers
            };
            window.get_slice(3 * SLOT_BYTES, 1024).expect("a slot").copy_from(&[7_u8; 1024]);
            assert_eq!(ask(&[order(3, DiskVerb::Write, 9, 2)]), [(3, DiskStatus::Done)]);
            let answers = ask(&[
                order(0, DiskVerb::Read, 8, 4),
                order(1, DiskVerb::Flush, 0, 0),
                order(2, DiskVerb::Read, 1 << 40, 1),
                order(4, DiskVerb::Read, 0, 129),
                DiskOrder { disk: 0, ..order(5, DiskVerb::Read, 0, 1) },
                order(77, DiskVerb::Read, 0, 1),
            ]);
            use DiskStatus::{Done, Failed};
            assert_eq!(answers, [(0, Done), (1, Done), (2, Failed), (4, Failed), (5, Failed), (77, Failed)]);
            let mut read = [0xee_u8; 2048];
            window.get_slice(0, 2048).expect("a slot").copy_to(&mut read[..]);
            assert!(read[..] == [[0; 512], [7; 512], [7; 512], [0; 512]].concat(), "the bytes of before");
            drop(hub);
            assert!(served.join().expect("no panic").is_ok());
        });
        fs::remove_file(path).expect("it is there");
    }

    #[test]
    fn limits_hold_until_there_are_others() {
        let path = std::env::temp_dir().join(format!("basaltd-{}-limits", std::process::id()));
        let options = OpenOptions::new().read(true).write(true).create(true).truncate(true).clone();
        let file = options.open(&path).expect("a file");
        file.set_len(1 << 20).expect("room");
        let source = Source { format: Format::Raw, direct: false };
        let images = [Some(Image::open((file, source), false, None).expect("a disk"))];
        let window = MmapRegion::new(WINDOW_BYTES).expect("memory");
        let limits = [Limits { iops: Some(1), bandwidth: None }];
        let (hub, worker) =
            socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)
                .expect("sockets");
        thread::scope(|scope| {
            let orders = Orders { images: &images, window: &window, limits: &limits };
            let served = scope.spawn(move || orders.serve(worker.as_fd()));
            let order =
                |slot| DiskOrder { slot, disk: 0, verb: DiskVerb::Read, sectors: 1, sector: 0, number: 0 };
            let entries: Vec<u8> = (0..32).flat_map(|slot| order(slot).to_bytes()).collect();
            Message::Orders(&entries).send(&hub).expect("it hears");
            let answered = |slot| {
                let mut bytes = [0; DiskAnswer::BYTES];
                recv(&hub, &mut bytes, RecvFlags::empty()).expect("it answers");
                let answer = DiskAnswer::from_bytes(&bytes).expect("an answer");
                assert_eq!((answer.slot < 32, answer.status), (true, DiskStatus::Done), "{slot}");
            };
            answered(0);
            assert!(
                !comes(hub.as_fd(), Duration::from_millis(300)).expect("it can be asked"),
                "one a second"
            );
            let begun = Instant::now();
            Message::Limit(Limit { disk: 0, limits: Limits::default() }).send(&hub).expect("it hears");
            (1..32).for_each(answered);
            assert!(begun.elapsed() < Duration::from_secs(10), "31 would take as many seconds");
            drop(hub);
            assert!(served.join().expect("no panic").is_ok());
        });
        fs::remove_file(path).expect("it is there");
    }
}
