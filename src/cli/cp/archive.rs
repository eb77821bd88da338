//! The form of tar archives: what `tar` in a container writes, read with bounds, and what it understands, written.
//!
//! GNU's, busybox' and the pax form are read. Of their extensions only longer names and sizes count.

use std::ffi::OsString;
use std::io::{self, Read, Write};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::PathBuf;

/// Size of a block, of which an archive consists.
const BLOCK: usize = 512;
/// Maximum size of a long name, and of pax records, in bytes.
const MAX_EXTENSION: u64 = 64 * 1024;

const NAME: usize = 100;
const MODE: usize = 100;
const UID: usize = 108;
const GID: usize = 116;
const SIZE: usize = 124;
const TIME: usize = 136;
const CHECKSUM: usize = 148;
const KIND: usize = 156;
const LINK: usize = 157;
const MAGIC: usize = 257;
const PREFIX: usize = 345;

/// Kind of a member.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum MemberKind {
    File,
    HardLink,
    Symlink,
    Folder,
    /// Devices, pipes, and what is not known.
    Other,
}

/// Member of an archive, without its content.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Member {
    pub(super) kind: MemberKind,
    pub(super) path: PathBuf,
    /// Target of a link.
    pub(super) link: PathBuf,
    pub(super) mode: u32,
    pub(super) uid: u32,
    pub(super) gid: u32,
    /// In seconds since the epoch.
    pub(super) modified: u64,
    /// Of the content, in bytes.
    pub(super) size: u64,
}

/// Names and sizes that go before a member and count for it.
#[derive(Debug, Default)]
struct Extensions {
    path: Option<Vec<u8>>,
    link: Option<Vec<u8>>,
    size: Option<u64>,
}

/// Reader of an archive.
pub(super) struct ArchiveReader<R> {
    from: R,
    /// Bytes of the present member's content that were not read, and its padding.
    rest: u64,
    padding: u64,
}

/// Returns an error that says that the archive is invalid.
pub(super) fn invalid(reason: &str) -> io::Error {
    io::Error::new(
        io::ErrorKind::InvalidData,
        format!("the container's archive is invalid: {reason}"),
    )
}

fn cut_off() -> io::Error {
    io::Error::new(io::ErrorKind::UnexpectedEof, "the archive ends too early")
}

impl<R: Read> ArchiveReader<R> {
    pub(super) fn new(from: R) -> Self {
        Self {
            from,
            rest: 0,
            padding: 0,
        }
    }

    /// Reads up to the next member, whose content is what is read from this then; `None` at the end.
    ///
    /// # Errors
    /// The archive is invalid or cut off.
    pub(super) fn next(&mut self) -> io::Result<Option<Member>> {
        let mut extensions = Extensions::default();
        loop {
            let left = self.rest.saturating_add(self.padding);
            if io::copy(&mut (&mut self.from).take(left), &mut io::sink())? < left {
                return Err(cut_off());
            }
            let mut head = [0; BLOCK];
            let read = self.from.read_exact(&mut head);
            read.map_err(|error| match error.kind() {
                io::ErrorKind::UnexpectedEof => cut_off(),
                _ => error,
            })?;
            if head.iter().all(|byte| *byte == 0) {
                self.rest = 0;
                self.padding = 0;
                return Ok(None);
            }
            if octal(&head[CHECKSUM..KIND])? != checksum(&head) {
                return Err(invalid("a checksum is wrong"));
            }
            self.rest = octal(&head[SIZE..TIME])?;
            let kind = head[KIND];
            if let b'L' | b'K' | b'x' | b'g' = kind {
                self.pad();
                extensions.add(kind, &self.extension()?)?;
                continue;
            }
            self.rest = extensions.size.unwrap_or(self.rest);
            let member = member(&head, extensions, self.rest)?;
            // Links, devices, folders and pipes have none, whatever their size.
            if let b'1'..=b'6' = kind {
                self.rest = 0;
            }
            self.pad();
            return Ok(Some(member));
        }
    }

    fn pad(&mut self) {
        let over = self.rest % 512;
        self.padding = if over == 0 {
            0
        } else {
            512_u64.saturating_sub(over)
        };
    }

    fn extension(&mut self) -> io::Result<Vec<u8>> {
        if self.rest > MAX_EXTENSION {
            return Err(invalid("a name is too long"));
        }
        let mut content = vec![];
        self.read_to_end(&mut content)?;
        Ok(content)
    }
}

impl<R: Read> Read for ArchiveReader<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.rest == 0 || buffer.is_empty() {
            return Ok(0);
        }
        let read = (&mut self.from).take(self.rest).read(buffer)?;
        if read == 0 {
            return Err(cut_off());
        }
        let length = u64::try_from(read).unwrap_or(u64::MAX);
        self.rest = self.rest.saturating_sub(length);
        Ok(read)
    }
}

impl Extensions {
    fn add(&mut self, kind: u8, content: &[u8]) -> io::Result<()> {
        match kind {
            b'L' => self.path = Some(text(content).to_vec()),
            b'K' => self.link = Some(text(content).to_vec()),
            b'x' => self.add_pax(content)?,
            _ => {}
        }
        Ok(())
    }

    /// Adds records of the form `LENGTH KEY=VALUE\n`, where the length is that of the whole record.
    fn add_pax(&mut self, mut records: &[u8]) -> io::Result<()> {
        let wrong = || invalid("a pax record is wrong");
        while !records.is_empty() {
            let blank = records.iter().position(|b| *b == b' ').ok_or_else(wrong)?;
            let length = std::str::from_utf8(&records[..blank]).ok();
            let length: usize = length.and_then(|l| l.parse().ok()).ok_or_else(wrong)?;
            let record = records.get(..length).ok_or_else(wrong)?;
            let record = record.get(blank.saturating_add(1)..).ok_or_else(wrong)?;
            let record = record.strip_suffix(b"\n").ok_or_else(wrong)?;
            let equals = record.iter().position(|b| *b == b'=').ok_or_else(wrong)?;
            let (key, value) = (&record[..equals], &record[equals.saturating_add(1)..]);
            match key {
                b"path" => self.path = Some(value.to_vec()),
                b"linkpath" => self.link = Some(value.to_vec()),
                b"size" => {
                    let size = std::str::from_utf8(value).ok();
                    self.size = Some(size.and_then(|s| s.parse().ok()).ok_or_else(wrong)?);
                }
                _ => {}
            }
            records = &records[length..];
        }
        Ok(())
    }
}

fn member(head: &[u8; BLOCK], extensions: Extensions, size: u64) -> io::Result<Member> {
    let mut path = text(&head[..NAME]).to_vec();
    let prefix = text(&head[PREFIX..BLOCK.saturating_sub(12)]);
    // GNU's own form has other things there.
    if &head[MAGIC..MAGIC.saturating_add(6)] == b"ustar\0" && !prefix.is_empty() {
        path = [prefix, b"/", &path].concat();
    }
    let path = extensions.path.unwrap_or(path);
    let link = text(&head[LINK..MAGIC]).to_vec();
    let link = extensions.link.unwrap_or(link);
    let kind = match head[KIND] {
        // Before there were folders their names ended so.
        0 | b'0' | b'7' if path.ends_with(b"/") => MemberKind::Folder,
        0 | b'0' | b'7' => MemberKind::File,
        b'1' => MemberKind::HardLink,
        b'2' => MemberKind::Symlink,
        b'5' => MemberKind::Folder,
        _ => MemberKind::Other,
    };
    let small = |from: usize, to: usize| {
        let number = octal(&head[from..to]).unwrap_or_default();
        u32::try_from(number).unwrap_or_default()
    };
    if path.contains(&0) || link.contains(&0) {
        return Err(invalid("a name has a zero byte"));
    }
    Ok(Member {
        kind,
        path: OsString::from_vec(path).into(),
        link: OsString::from_vec(link).into(),
        mode: small(MODE, UID),
        uid: small(UID, GID),
        gid: small(GID, SIZE),
        modified: octal(&head[TIME..CHECKSUM]).unwrap_or_default(),
        size,
    })
}

/// Returns what stands before the first zero byte.
fn text(field: &[u8]) -> &[u8] {
    field.split(|b| *b == 0).next().unwrap_or_default()
}

/// Reads a number: octal digits, or with the first bit set binary.
fn octal(field: &[u8]) -> io::Result<u64> {
    if let Some((first @ 0x80.., rest)) = field.split_first() {
        let mut value = u64::from(first & 0x7f);
        for byte in rest {
            let shifted = value.checked_mul(256);
            let shifted = shifted.ok_or_else(|| invalid("a number is too large"))?;
            value = shifted | u64::from(*byte);
        }
        return Ok(value);
    }
    let digits = text(field).trim_ascii();
    if digits.is_empty() {
        return Ok(0);
    }
    let digits = std::str::from_utf8(digits)
        .ok()
        .filter(|d| !d.starts_with('+'));
    let value = digits.and_then(|digits| u64::from_str_radix(digits, 8).ok());
    value.ok_or_else(|| invalid("a number is wrong"))
}

/// Returns the sum of a header's bytes, with blanks for the sum itself.
fn checksum(head: &[u8; BLOCK]) -> u64 {
    let bytes = head.iter().enumerate();
    let bytes = bytes.map(|(at, byte)| match at {
        CHECKSUM..KIND => b' ',
        _ => *byte,
    });
    bytes.map(u64::from).fold(0, u64::saturating_add)
}

/// Writes a number as octal digits with a zero byte, or binary where there is no room for these.
fn put(field: &mut [u8], value: u64) {
    let width = field.len().saturating_sub(1);
    let digits = format!("{value:0width$o}");
    if digits.len() == width {
        field[..width].copy_from_slice(digits.as_bytes());
        return;
    }
    let bytes = value.to_be_bytes();
    let count = bytes.len().min(field.len());
    let at = field.len().saturating_sub(count);
    field[at..].copy_from_slice(&bytes[bytes.len().saturating_sub(count)..]);
    field[0] |= 0x80;
}

fn header(member: &Member, path: &[u8], link: &[u8], kind: u8) -> [u8; BLOCK] {
    let mut head = [0; BLOCK];
    let length = path.len().min(NAME);
    head[..length].copy_from_slice(&path[..length]);
    put(&mut head[MODE..UID], u64::from(member.mode));
    put(&mut head[UID..GID], u64::from(member.uid));
    put(&mut head[GID..SIZE], u64::from(member.gid));
    put(&mut head[SIZE..TIME], member.size);
    put(&mut head[TIME..CHECKSUM], member.modified);
    head[KIND] = kind;
    let room = MAGIC.saturating_sub(LINK);
    let length = link.len().min(room);
    head[LINK..LINK.saturating_add(length)].copy_from_slice(&link[..length]);
    head[MAGIC..MAGIC.saturating_add(8)].copy_from_slice(b"ustar  \0");
    let sum = checksum(&head);
    put(&mut head[CHECKSUM..KIND.saturating_sub(1)], sum);
    head[KIND.saturating_sub(1)] = b' ';
    head
}

/// Writes the head of a member, in GNU's form.
///
/// # Errors
/// Any I/O error.
pub(super) fn write_member(to: &mut impl Write, member: &Member) -> io::Result<()> {
    let (path, link) = (member.path.as_os_str(), member.link.as_os_str());
    for (name, kind) in [(path, b'L'), (link, b'K')] {
        if name.len() > NAME {
            let content = [name.as_bytes(), &[0]].concat();
            let size = u64::try_from(content.len()).unwrap_or(u64::MAX);
            let long = Member {
                size,
                ..member.clone()
            };
            to.write_all(&header(&long, b"././@LongLink", b"", kind))?;
            to.write_all(&content)?;
            write_padding(to, size)?;
        }
    }
    let kind = match member.kind {
        MemberKind::Folder => b'5',
        MemberKind::Symlink => b'2',
        MemberKind::HardLink => b'1',
        MemberKind::File | MemberKind::Other => b'0',
    };
    to.write_all(&header(member, path.as_bytes(), link.as_bytes(), kind))
}

/// Writes what fills a content of this size up to a whole block.
///
/// # Errors
/// Any I/O error.
pub(super) fn write_padding(to: &mut impl Write, size: u64) -> io::Result<()> {
    let over = usize::try_from(size % 512).unwrap_or_default();
    let length = if over == 0 {
        0
    } else {
        BLOCK.saturating_sub(over)
    };
    to.write_all(&[0; BLOCK][..length])
}

/// Writes the end of an archive.
///
/// # Errors
/// Any I/O error.
pub(super) fn write_end(to: &mut impl Write) -> io::Result<()> {
    to.write_all(&[0; 2 * BLOCK])
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::Path;

    fn member(path: &str, size: u64) -> Member {
        Member {
            kind: MemberKind::File,
            path: path.into(),
            link: PathBuf::new(),
            mode: 0o644,
            uid: 5_000_000,
            gid: 7,
            modified: 1_700_000_000,
            size,
        }
    }

    fn written(members: &[(Member, &[u8])]) -> Vec<u8> {
        let mut archive = vec![];
        for (member, content) in members {
            write_member(&mut archive, member).unwrap();
            archive.extend(*content);
            write_padding(&mut archive, member.size).unwrap();
        }
        write_end(&mut archive).unwrap();
        archive
    }

    fn read(archive: &[u8]) -> io::Result<Vec<(Member, Vec<u8>)>> {
        let mut reader = ArchiveReader::new(archive);
        let mut found = vec![];
        while let Some(member) = reader.next()? {
            let mut content = vec![];
            reader.read_to_end(&mut content)?;
            found.push((member, content));
        }
        Ok(found)
    }

    #[test]
    fn what_is_written_is_read_again() {
        let long = format!("{}/name", "folder/".repeat(40));
        let mut link = member("link", 0);
        link.kind = MemberKind::Symlink;
        link.link = "target/".repeat(40).into();
        let members = [
            (member("a", 3), &b"abc"[..]),
            (member(&long, 512), &[7; 512]),
            (link, b""),
        ];
        let found = read(&written(&members)).unwrap();
        let expected: Vec<_> = members
            .clone()
            .map(|(m, content)| (m, content.to_vec()))
            .into();
        assert_eq!(found, expected);
        // Content that nobody reads is skipped, and sizes go beyond octal digits.
        let archive = written(&members);
        let mut reader = ArchiveReader::new(&archive[..]);
        let mut count = 0;
        while reader.next().unwrap().is_some() {
            count += 1;
        }
        assert_eq!(count, 3);
        let huge = written(&[(member("huge", 1 << 40), b"")]);
        let found = ArchiveReader::new(&huge[..]).next().unwrap().unwrap();
        assert_eq!(found.size, 1 << 40);
    }

    /// A pax header before a member.
    fn with_pax(records: &[u8]) -> Vec<u8> {
        let size = u64::try_from(records.len()).unwrap();
        let mut archive = header(&member("pax", size), b"pax", b"", b'x').to_vec();
        archive.extend(records);
        write_padding(&mut archive, size).unwrap();
        archive.extend(written(&[(member("short", 1), b"x")]));
        archive
    }

    #[test]
    fn pax_records_count_for_the_next_member() {
        let found = read(&with_pax(b"20 path=longer name\n11 atime=5\n")).unwrap();
        assert_eq!(found[0].0.path, Path::new("longer name"));
        assert_eq!(found[0].1, b"x");
        for records in [
            &b"99 path=x\n"[..],
            b"0 path=x\n",
            b"x path=x\n",
            b"path",
            b"10 pathxxx\n",
            b"11 size=-1\n",
            b"11 path=\0\0\n",
        ] {
            read(&with_pax(records)).unwrap_err();
        }
    }

    #[test]
    fn an_archive_that_is_cut_off_or_damaged_is_an_error() {
        let archive = written(&[(member("a", 600), &[1; 600])]);
        for length in [0, 100, 512, 1000, 1024, 1112, 1500, 1536] {
            let error = read(&archive[..length]).unwrap_err();
            assert_eq!(error.to_string(), "the archive ends too early", "{length}");
        }
        let mut damaged = archive.clone();
        damaged[0] = b'b';
        read(&damaged).unwrap_err();
        let long = header(&member("x", 1 << 30), b"x", b"", b'L');
        let error = read(&long).unwrap_err();
        assert!(error.to_string().ends_with("a name is too long"));
    }

    #[test]
    fn numbers_are_octal_or_binary() {
        for (field, expected) in [
            (&b"0000644\0"[..], 0o644),
            (b"   644 \0", 0o644),
            (b"\0\0\0", 0),
            (b"\x80\0\x01\0", 256),
        ] {
            assert_eq!(octal(field).unwrap(), expected);
        }
        for field in [&b"8"[..], b"-1", b"+1", b"0x1", &[0xff; 12]] {
            octal(field).unwrap_err();
        }
    }
}
