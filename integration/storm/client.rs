//! One client: a process that works in a folder of its own on the mount until it is told to
//! stop or a call fails, and keeps a journal of it on the machine's own file system. All its
//! calls go by descriptors, so that it goes on where the mount is detached.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::FileExt;
use std::path::PathBuf;

use rustix::fs::{AtFlags, Dir, Mode, OFlags};
use rustix::mm::{MapFlags, MsyncFlags, ProtFlags};

use crate::failure::{Check, Stop, fail};
use crate::random::Random;
use crate::storm::journal::{Action, Content, Files, Journal, Last};

/// Descriptors that a client of [`Habit::Holds`] keeps open.
const HELD: usize = 300;
/// Files that a client has at once.
const MOST_FILES: usize = 12;

/// What a client is like.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Habit {
    /// Small files, some large ones.
    Plain,
    /// One of very many: small files only.
    Small,
    /// Holds many files open, those that it removes, too.
    Holds,
}

/// Everything that a client is told.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Orders {
    /// The mount point.
    pub point: PathBuf,
    /// Device number of the mount, so that nobody works in the folder below it.
    pub device: u64,
    /// The client's folder in it.
    pub folder: String,
    /// Its journal.
    pub journal: PathBuf,
    /// It stops once this file is there.
    pub stop: PathBuf,
    /// Decides all it does.
    pub seed: u64,
    /// What it is like.
    pub habit: Habit,
}

impl Orders {
    /// As words of a command line.
    pub fn words(&self) -> Vec<String> {
        let path = |path: &PathBuf| path.to_string_lossy().into_owned();
        let habit = match self.habit {
            Habit::Plain => "plain",
            Habit::Small => "small",
            Habit::Holds => "holds",
        };
        vec![
            path(&self.point),
            self.device.to_string(),
            self.folder.clone(),
            path(&self.journal),
            path(&self.stop),
            self.seed.to_string(),
            habit.to_owned(),
        ]
    }

    /// Reads them.
    pub fn parse(words: &[String]) -> Check<Orders> {
        let [point, device, folder, journal, stop, seed, habit] = words else { fail!("not the words of a client") };
        Ok(Orders {
            point: point.into(),
            device: device.parse()?,
            folder: folder.clone(),
            journal: journal.into(),
            stop: stop.into(),
            seed: seed.parse()?,
            habit: match habit.as_str() {
                "plain" => Habit::Plain,
                "small" => Habit::Small,
                "holds" => Habit::Holds,
                _ => fail!("{habit} is no habit"),
            },
        })
    }
}

/// Why a client ends.
enum End {
    Failed(io::Error),
    Wrong(String),
    /// The mount was gone before it began.
    Late,
}

impl From<io::Error> for End {
    fn from(error: io::Error) -> End {
        End::Failed(error)
    }
}

impl From<rustix::io::Errno> for End {
    fn from(errno: rustix::io::Errno) -> End {
        End::Failed(errno.into())
    }
}

type Step<T = ()> = Result<T, End>;

struct Client {
    root: OwnedFd,
    journal: File,
    random: Random,
    files: Files,
    held: Vec<(File, Content)>,
    habit: Habit,
    next: u64,
    doing: String,
}

/// Works until the end, which it writes into the journal.
pub fn run(orders: &Orders) -> Check {
    let mut journal = OpenOptions::new().create(true).append(true).open(&orders.journal)?;
    let last = match begin(orders, journal.try_clone()?) {
        Ok(mut client) => loop {
            if orders.stop.exists() {
                break Last::Stopped;
            }
            match client.step() {
                Ok(()) => {}
                Err(End::Failed(error)) => break Last::Error(error.raw_os_error().unwrap_or(0), client.doing),
                Err(End::Wrong(what)) => break Last::Wrong(format!("{}: {what}", client.doing)),
                Err(End::Late) => break Last::Stopped,
            }
        },
        Err(End::Failed(error)) => Last::Error(error.raw_os_error().unwrap_or(0), "begin".to_owned()),
        Err(End::Wrong(what)) => Last::Wrong(what),
        Err(End::Late) => Last::Stopped,
    };
    journal.write_all(Journal::ends(&last).as_bytes())?;
    Ok(())
}

fn begin(orders: &Orders, mut journal: File) -> Step<Client> {
    let point = rustix::fs::open(&orders.point, OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?;
    if rustix::fs::fstat(&point)?.st_dev != orders.device {
        return Err(End::Late);
    }
    journal.write_all(Journal::begins(&Action::Begin).as_bytes())?;
    rustix::fs::mkdirat(&point, &*orders.folder, Mode::from_raw_mode(0o755))?;
    journal.write_all(Journal::DONE.as_bytes())?;
    let root = rustix::fs::openat(&point, &*orders.folder, OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?;
    Ok(Client {
        root,
        journal,
        random: Random::new(orders.seed),
        files: Files::new(),
        held: Vec::new(),
        habit: orders.habit,
        next: 0,
        doing: String::new(),
    })
}

impl Client {
    fn step(&mut self) -> Step {
        match self.random.weighted([10, 5, 2, 3, 5, 4, 8, 5, 3, 6, 3]) {
            0 => self.create(),
            1 => self.append(),
            2 => self.cut(),
            3 => self.map(),
            4 => self.rename(),
            5 => self.unlink(),
            6 => self.read(),
            7 => self.list(),
            8 => self.sync(),
            9 => self.look(),
            _ => self.use_held(),
        }
    }

    /// Does `action`, with both notes of it.
    fn act(&mut self, action: Action, how: impl FnOnce(&mut Client) -> Step) -> Step {
        self.doing = action.to_string();
        self.journal.write_all(Journal::begins(&action).as_bytes())?;
        how(self)?;
        self.journal.write_all(Journal::DONE.as_bytes())?;
        action.apply(&mut self.files);
        Ok(())
    }

    fn a_file(&mut self) -> Option<(String, Content)> {
        let count = self.files.len() as u64;
        let at = self.random.below(count) as usize;
        self.files.iter().nth(at).map(|(name, content)| (name.clone(), *content))
    }

    fn new_name(&mut self) -> String {
        self.next += 1;
        format!("f{}", self.next)
    }

    fn some_bytes(&mut self) -> usize {
        match (self.habit, self.random.below(20)) {
            (Habit::Plain, 0) => self.random.below(2 << 20) as usize,
            (Habit::Plain, 1..4) => self.random.below(200_000) as usize,
            _ => self.random.below(9000) as usize,
        }
    }

    fn open(&self, name: &str, flags: OFlags) -> Step<File> {
        let file = rustix::fs::openat(&self.root, name, flags | OFlags::CLOEXEC, Mode::from_raw_mode(0o644))?;
        Ok(file.into())
    }

    fn create(&mut self) -> Step {
        if self.files.len() >= MOST_FILES {
            return self.unlink();
        }
        let (name, content) = (self.new_name(), Content { seed: self.random.next(), len: self.some_bytes() });
        let (action, synced) = (Action::Create(name.clone(), content), self.random.one_in(4));
        self.act(action, |client| {
            let file = client.open(&name, OFlags::CREATE | OFlags::EXCL | OFlags::RDWR)?;
            client.write_pieces(&file, &content.bytes(), 0)?;
            if synced {
                file.sync_all()?;
            }
            if client.habit == Habit::Holds {
                client.hold(file, content);
            }
            Ok(())
        })
    }

    fn write_pieces(&mut self, file: &File, bytes: &[u8], from: usize) -> Step {
        let mut at = from;
        while at < bytes.len() {
            let piece = 1 + self.random.below(bytes.len() as u64) as usize;
            let end = (at + piece).min(bytes.len());
            file.write_all_at(bytes.get(at..end).unwrap_or_default(), at as u64)?;
            at = end;
        }
        Ok(())
    }

    fn hold(&mut self, file: File, content: Content) {
        if self.held.len() >= HELD {
            let at = self.random.below(HELD as u64) as usize;
            self.held.swap_remove(at);
        }
        self.held.push((file, content));
    }

    fn append(&mut self) -> Step {
        let Some((name, content)) = self.a_file() else { return Ok(()) };
        let longer = Content { len: content.len + 1 + self.some_bytes(), ..content };
        self.forget_held(content);
        self.act(Action::Append(name.clone(), longer.len), |client| {
            let file = client.open(&name, OFlags::WRONLY)?;
            client.write_pieces(&file, &longer.bytes(), content.len)
        })
    }

    fn cut(&mut self) -> Step {
        let Some((name, content)) = self.a_file() else { return Ok(()) };
        let len = self.random.below(content.len as u64 + 1) as usize;
        self.forget_held(content);
        self.act(Action::Cut(name.clone(), len), |client| {
            Ok(client.open(&name, OFlags::WRONLY)?.set_len(len as u64)?)
        })
    }

    fn map(&mut self) -> Step {
        let Some((name, content)) = self.a_file().filter(|(_, content)| content.len > 0) else { return Ok(()) };
        let other = Content { seed: self.random.next(), ..content };
        self.forget_held(content);
        self.act(Action::Map(name.clone(), other.seed), |client| {
            let file = client.open(&name, OFlags::RDWR)?;
            write_through_map(&file, &other.bytes())
        })
    }

    /// Files that are about to change are not held to what they were.
    fn forget_held(&mut self, content: Content) {
        self.held.retain(|(_, held)| held.seed != content.seed);
    }

    fn rename(&mut self) -> Step {
        let Some((from, _)) = self.a_file() else { return Ok(()) };
        let to = match self.a_file() {
            Some((other, _)) if other != from && self.random.one_in(3) => other,
            _ => self.new_name(),
        };
        self.act(Action::Rename(from.clone(), to.clone()), |client| {
            Ok(rustix::fs::renameat(&client.root, &*from, &client.root, &*to)?)
        })
    }

    fn unlink(&mut self) -> Step {
        let Some((name, content)) = self.a_file() else { return Ok(()) };
        if self.habit == Habit::Holds {
            self.doing = format!("open {name} before its end");
            let file = self.open(&name, OFlags::RDONLY)?;
            self.hold(file, content);
        }
        self.act(Action::Unlink(name.clone()), |client| {
            Ok(rustix::fs::unlinkat(&client.root, &*name, AtFlags::empty())?)
        })
    }

    fn read(&mut self) -> Step {
        let Some((name, content)) = self.a_file() else { return Ok(()) };
        self.doing = format!("read {name}");
        let file = self.open(&name, OFlags::RDONLY)?;
        compare(&file, content)
    }

    fn list(&mut self) -> Step {
        self.doing = "list".to_owned();
        let mut names = Vec::new();
        for entry in Dir::read_from(self.root.as_fd())? {
            let name = entry?.file_name().to_string_lossy().into_owned();
            if name != "." && name != ".." {
                names.push(name);
            }
        }
        names.sort();
        let expected: Vec<String> = self.files.keys().cloned().collect();
        if names != expected {
            return Err(End::Wrong(format!("{names:?}, but there are {expected:?}")));
        }
        Ok(())
    }

    fn sync(&mut self) -> Step {
        let Some((name, _)) = self.a_file() else { return Ok(()) };
        if self.random.one_in(4) {
            self.doing = "fsync the folder".to_owned();
            return Ok(rustix::fs::fsync(&self.root)?);
        }
        self.doing = format!("fsync {name}");
        Ok(self.open(&name, OFlags::RDONLY)?.sync_data()?)
    }

    fn look(&mut self) -> Step {
        let Some((name, content)) = self.a_file() else { return Ok(()) };
        self.doing = format!("stat {name}");
        let size = rustix::fs::statat(&self.root, &*name, AtFlags::SYMLINK_NOFOLLOW)?.st_size;
        if size != content.len as i64 {
            return Err(End::Wrong(format!("{size} bytes, but {} were written", content.len)));
        }
        self.doing = "look for what is not there".to_owned();
        match rustix::fs::statat(&self.root, "nobody", AtFlags::SYMLINK_NOFOLLOW) {
            Err(rustix::io::Errno::NOENT) => Ok(()),
            Err(errno) => Err(errno.into()),
            Ok(_) => Err(End::Wrong("it is there".to_owned())),
        }
    }

    fn use_held(&mut self) -> Step {
        let count = self.held.len() as u64;
        let at = self.random.below(count) as usize;
        self.doing = "read a file that is held".to_owned();
        match self.held.get(at) {
            Some((file, content)) => compare(file, *content),
            None => Ok(()),
        }
    }
}

fn compare(file: &File, content: Content) -> Step {
    let wanted = content.bytes();
    let mut bytes = vec![0; wanted.len() + 1];
    let mut len = 0;
    while let Some(room) = bytes.get_mut(len..).filter(|room| !room.is_empty()) {
        match file.read_at(room, len as u64)? {
            0 => break,
            count => len += count,
        }
    }
    if bytes.get(..len) != Some(&wanted) {
        return Err(End::Wrong(format!("{len} bytes read, {} expected, or others than these", wanted.len())));
    }
    Ok(())
}

/// A failure of the mount comes as SIGBUS here, which ends the process.
#[allow(unsafe_code, reason = "memory that is mapped from a file has no safe wrapper")]
fn write_through_map(file: &File, bytes: &[u8]) -> Step {
    let flags = ProtFlags::READ | ProtFlags::WRITE;
    // SAFETY: a new mapping at an address of the kernel's choice touches nothing.
    let start = unsafe { rustix::mm::mmap(std::ptr::null_mut(), bytes.len(), flags, MapFlags::SHARED, file, 0)? };
    // SAFETY: the mapping is as long, and nobody else writes to this client's files.
    unsafe { std::ptr::copy_nonoverlapping(bytes.as_ptr(), start.cast(), bytes.len()) };
    // SAFETY: mapped above, and still.
    let synced = unsafe { rustix::mm::msync(start, bytes.len(), MsyncFlags::SYNC) };
    // SAFETY: mapped above, unmapped once.
    unsafe { rustix::mm::munmap(start, bytes.len())? };
    Ok(synced?)
}

/// A client as the suite starts it: by words.
pub fn from_words(words: &[String]) -> Check {
    let orders = Orders::parse(words)?;
    match fs::metadata(&orders.journal) {
        Ok(_) => Err(Stop::Failed("the journal is there already".to_owned())),
        Err(_) => run(&orders),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn orders_travel_as_words() {
        for habit in [Habit::Plain, Habit::Small, Habit::Holds] {
            let orders = Orders {
                point: "/mnt/x".into(),
                device: 42,
                folder: "c1".into(),
                journal: "/tmp/j".into(),
                stop: "/tmp/s".into(),
                seed: 7,
                habit,
            };
            assert_eq!(Orders::parse(&orders.words()), Ok(orders));
        }
        assert!(Orders::parse(&[]).is_err());
    }
}
