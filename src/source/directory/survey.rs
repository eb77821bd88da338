//! Reads the files of the folder: selection, order, and acceptance of their content.

use std::collections::HashSet;
use std::ffi::{OsStr, OsString};
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use rustix::fs::FileType;
use sha2::{Digest, Sha256};

use super::crowd::{BUDGET, MAX_BUDGET, MAX_NEW};
use super::known::{KnownManifest, SeenContent};
use super::listing::Contents;
use super::reader::{FILE_LIMIT, FileReader, ReadJob};
use super::relist::Directory;
use super::usage::DirectoryUsage;
use crate::manifest::{self, Problem};
use crate::source::candidates::has_usual_extension;
use crate::source::files::{FileEntry, ReadOutcome};

/// A file found changed without an event is taken when it is at least this old.
const SETTLED: Duration = Duration::from_millis(200);

/// The files to read, in this order.
#[derive(Debug, Default)]
struct ReadPlan {
    jobs: Vec<ReadJob>,
    /// Number of files that are always read, since a Pod runs from them.
    good: usize,
    /// Number of files that are read as soon as there is time.
    due: usize,
    /// Number of the remaining files.
    later: usize,
}

impl Directory {
    /// Takes in everything that the folder holds. Gives what is missing where the one manifest is, or
    /// why the folder does not count.
    pub(super) fn survey(
        &mut self,
        reader: &mut FileReader,
        contents: &Contents,
        now: Instant,
        cautious: bool,
    ) -> Option<String> {
        let is_empty = contents.names.entries.is_empty();
        if is_empty && let Some(why) = self.describe_unmounted(&contents.mount) {
            self.unread = 0;
            self.forget_absences();
            return Some(why);
        }
        let before = self.identity.replace(contents.identity);
        if before.is_some_and(|before| before != contents.identity) {
            self.replaced = Some(now);
        }
        let vanished = self.read_files(reader, contents, now, cautious);
        let present = |name: &OsStr| {
            let entry = contents.entry(name).filter(|_| !vanished.contains(name));
            entry.map(|entry| entry.inode)
        };
        self.watch.pending.retain(|name| present(name).is_some());
        self.rest.retain(|name| present(name).is_some());
        reader.retain(|name| present(name).is_some());
        if self.unread == 0 {
            self.is_first_pass = false;
        }
        let inode = |path: &Path| match &contents.only {
            Some(only) => present(only),
            None => present(path.file_name()?),
        };
        self.record_absences(inode, &contents.names.ignored, now);
        let good = |known: &KnownManifest| !known.candidate.gone && known.is_good();
        let is_other = self.mount.as_deref() != Some(&contents.mount);
        if is_other && self.known.values().any(good) {
            self.mount = Some(Arc::new(contents.mount.clone()));
        }
        let waiting = contents.only.is_some() && contents.names.entries.is_empty();
        waiting.then(|| self.describe_missing())
    }

    /// Reads and takes in the files, as far as the time of a relist goes. Gives the names that turned out
    /// to be no manifests.
    fn read_files(
        &mut self,
        reader: &mut FileReader,
        contents: &Contents,
        now: Instant,
        cautious: bool,
    ) -> HashSet<OsString> {
        let plan = self.plan(contents, now, cautious);
        let ReadPlan {
            jobs,
            good,
            due,
            later,
        } = plan;
        let is_present = |path: &Path| match &contents.only {
            Some(_) => true,
            None => path
                .file_name()
                .is_some_and(|n| contents.entry(n).is_some()),
        };
        self.usage = DirectoryUsage::of(self.known.values(), is_present);
        let mut vanished = HashSet::new();
        let mut given = 0_usize;
        let mut others_since = None;
        let path = self.manifest_path.clone();
        // Planning to read very many files takes its time too, and reading is what gets on.
        let spent = now.elapsed().saturating_mul(2);
        let budget = spent.clamp(BUDGET, MAX_BUDGET);
        reader.read(&contents.folder, &path, jobs, |name, found| {
            given = given.saturating_add(1);
            let is_rest = given > due;
            // Events of writers from before the file was read are pending by now.
            self.watch.drain(now);
            if self.watch.pending.was_touched(&name) {
                self.watch.pending.relist = true;
            } else if !self.take_in(contents, &name, found, now, cautious) {
                vanished.insert(name.clone());
            }
            if is_rest {
                self.rest.record_read(name);
            }
            if given < good {
                return ControlFlow::Continue(());
            }
            let since = others_since.get_or_insert_with(Instant::now);
            if given > good && (since.elapsed() >= budget || self.usage.is_relist_full()) {
                ControlFlow::Break(())
            } else {
                ControlFlow::Continue(())
            }
        });
        self.unread = due.saturating_sub(given).saturating_add(later);
        vanished
    }

    /// Selects the files to read: those that a Pod runs from, those with pending events, those listed as
    /// refused, those that were never read (usual names first), and some of the rest.
    fn plan(&self, contents: &Contents, now: Instant, cautious: bool) -> ReadPlan {
        let follows = !cautious && self.watch.is_unbroken();
        let mut classes = [const { vec![] }; 5];
        let mut later = 0;
        for entry in &contents.names.entries {
            // A link is never written to itself.
            let written = entry.kind != FileType::Symlink;
            if written && self.watch.pending.is_being_written(&entry.name, now) {
                continue;
            }
            let known = self.known.get(&self.path_of(contents, &entry.name));
            if follows && known.is_some_and(|known| self.is_unchanged(entry, known)) {
                continue;
            }
            let class = match known {
                Some(known) if known.is_good() => 0,
                _ if self.changed_names.contains(&entry.name) => 1,
                Some(_) => 2,
                None if self.rest.contains(&entry.name) => continue,
                None if has_usual_extension(Path::new(&entry.name)) => 3,
                None => 4,
            };
            if class >= 3 && classes[class].len() >= MAX_NEW {
                later = usize::saturating_add(later, 1);
            } else {
                classes[class].push(job(entry, known));
            }
        }
        for class in &mut classes {
            // Links may lead to where nothing answers.
            class.sort_by_key(|job| job.kind == FileType::Symlink);
        }
        let good = classes[0].len();
        let mut jobs: Vec<ReadJob> = classes.into_iter().flatten().collect();
        let due = jobs.len();
        if cautious && later == 0 {
            let names = contents.names.entries.iter();
            let rest = self.rest.next(names.map(|entry| entry.name.as_os_str()));
            let rest = rest
                .into_iter()
                .filter(|name| !self.changed_names.contains(*name));
            jobs.extend(rest.filter_map(|name| {
                Some(ReadJob {
                    stamp: self.rest.stamp(name),
                    ..job(contents.entry(name)?, None)
                })
            }));
        }
        ReadPlan {
            jobs,
            good,
            due,
            later,
        }
    }

    /// True for a file of which unbroken watches alone say that it is as it was read. So a change of one file does not
    /// cost a look at all of them; the periodic relist looks.
    fn is_unchanged(&self, entry: &FileEntry, known: &KnownManifest) -> bool {
        entry.kind == FileType::RegularFile
            && entry.inode == known.inode
            && known.is_good()
            && known.trusted_stamp().is_some()
            && !self.changed_names.contains(&entry.name)
    }

    /// The manifest path that a name in the folder stands for.
    fn path_of(&self, contents: &Contents, name: &OsStr) -> PathBuf {
        match contents.only {
            Some(_) => self.manifest_path.clone(),
            None => self.manifest_path.join(name),
        }
    }

    /// Takes in what reading a file gave. False when there is no manifest under this name.
    fn take_in(
        &mut self,
        contents: &Contents,
        name: &OsStr,
        found: ReadOutcome,
        now: Instant,
        cautious: bool,
    ) -> bool {
        let path = self.path_of(contents, name);
        let pending = &mut self.watch.pending;
        let has_pod = |known: &KnownManifest| known.candidate.in_force.is_some();
        let holds = self.known.get(&path).is_some_and(has_pod);
        let problem = match found {
            ReadOutcome::Nothing => return false,
            ReadOutcome::Folder if !holds => return false,
            ReadOutcome::Folder => "is a symbolic link to a folder".to_owned(),
            ReadOutcome::Unusable(problem) => problem,
            ReadOutcome::Unanswered => format!(
                "did not answer within {}s, as a file on a mount that hangs; it is read once it answers",
                FILE_LIMIT.as_secs()
            ),
            ReadOutcome::Unchanged => {
                pending.finished(name);
                return true;
            }
            ReadOutcome::Content {
                stamp,
                bytes,
                steady,
            } => {
                let wall = SystemTime::now();
                let new = self.known.get(&path).and_then(KnownManifest::stamp) != Some(&stamp);
                let young = cautious && new && stamp.modified_within(SETTLED, wall);
                if (young || !steady) && !pending.waited_long(name, now) {
                    pending.wrote(name, now);
                    return true;
                }
                pending.finished(name);
                let racy = stamp.racy(wall);
                let seen = SeenContent {
                    stamp,
                    racy,
                    digest: Sha256::digest(&bytes).into(),
                };
                self.rest.remove(name);
                self.take_content(path, seen, &bytes);
                return true;
            }
        };
        pending.finished(name);
        self.rest.remove(name);
        let known = self
            .known
            .entry(path)
            .or_insert_with_key(|path| KnownManifest::new(path.clone()));
        known.seen = None;
        known.refuse(vec![Problem::of_file(problem)]);
        true
    }

    /// Takes in a file's content, which is parsed only when it is another one.
    fn take_content(&mut self, path: PathBuf, seen: SeenContent, bytes: &[u8]) {
        let known = self
            .known
            .entry(path)
            .or_insert_with_key(|path| KnownManifest::new(path.clone()));
        let before = known.seen.replace(seen);
        if before.is_some_and(|before| before.digest == seen.digest) {
            return;
        }
        let size = bytes.len() as u64;
        if !known.in_use
            && let Err(problem) = self.usage.check_size(size)
        {
            // Not even parsed, which is what takes time.
            known.refuse(vec![problem]);
            self.is_limit_reached = true;
            return;
        }
        match manifest::parse_file(bytes, &self.node_name) {
            Ok(manifest) => match self.usage.admit(known, &manifest, size) {
                Ok(()) => {
                    known.size = size;
                    known.accept(manifest);
                }
                Err(problem) => {
                    known.refuse(vec![problem]);
                    self.is_limit_reached = true;
                }
            },
            Err(problems) => known.refuse(problems),
        }
    }
}

fn job(entry: &FileEntry, known: Option<&KnownManifest>) -> ReadJob {
    ReadJob {
        name: entry.name.clone(),
        inode: entry.inode,
        kind: entry.kind,
        stamp: known.and_then(KnownManifest::trusted_stamp).copied(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::source::directory::DirectorySource;

    const FILES: usize = 20;

    fn write(folder: &Path, file: usize, version: &str) {
        let pod = format!("{{apiVersion: v1, kind: Pod, metadata: {{name: p{file}}}, ");
        let spec = format!("spec: {{containers: [{{name: c, image: {version}}}]}}}}");
        std::fs::write(folder.join(format!("p{file:02}.yaml")), pod + &spec).unwrap();
    }

    fn open(folder: &Path) -> Directory {
        let source = DirectorySource {
            path: folder.to_owned(),
            node_name: "n".to_owned(),
            rescan: Duration::from_secs(20),
            state: folder.join("state"),
        };
        Directory::open(source).0
    }

    /// Relists; gives how many Pods have this image, and how many files were asked about.
    fn relist(
        directory: &mut Directory,
        reader: &mut FileReader,
        image: &str,
        by_event: bool,
    ) -> [usize; 2] {
        let listing = directory.begin_relist().run();
        let desired = directory
            .relist(reader, listing, Instant::now(), !by_event)
            .desired;
        let images = desired
            .pods
            .values()
            .map(|wanted| wanted.pod.unpack().containers()[0].image.clone());
        let image = images.filter(|found| found.as_deref() == Some(image));
        [image.count(), reader.asked]
    }

    #[tokio::test]
    async fn a_change_of_one_file_costs_a_look_at_that_one() {
        let folder = tempfile::tempdir().unwrap();
        for file in 0..FILES {
            write(folder.path(), file, "one");
        }
        let mut directory = open(folder.path());
        let mut reader = FileReader::new();
        // Until the stamps are old enough to be trusted.
        loop {
            let found = relist(&mut directory, &mut reader, "one", false);
            let mut known = directory.known.values();
            if found[0] == FILES && known.all(|known| known.trusted_stamp().is_some()) {
                break;
            }
            tokio::time::sleep(SETTLED).await;
        }
        write(folder.path(), 7, "two");
        assert_eq!(relist(&mut directory, &mut reader, "two", true), [1, 1]);
        std::fs::remove_file(folder.path().join("p08.yaml")).unwrap();
        // The one that was just written may change again without its stamp.
        assert_eq!(relist(&mut directory, &mut reader, "two", true), [1, 1]);
        assert!(directory.known.values().any(|known| known.candidate.gone));
        // By then the file has been missing for long enough. Without an event, all are looked at.
        tokio::time::sleep(SETTLED).await;
        let found = relist(&mut directory, &mut reader, "one", false);
        assert_eq!(found, [FILES - 2, FILES - 1]);
    }

    #[tokio::test]
    async fn where_watches_are_new_all_files_are_looked_at() {
        let folder = tempfile::tempdir().unwrap();
        write(folder.path(), 1, "one");
        let mut directory = open(folder.path());
        let mut reader = FileReader::new();
        assert_eq!(relist(&mut directory, &mut reader, "one", true), [1, 1]);
        assert!(!directory.watch.is_unbroken());
    }
}
