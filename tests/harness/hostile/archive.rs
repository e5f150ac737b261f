//! Tar archives, header by header: whatever a writer could put there.

/// One entry: what its header says, and what follows it.
#[derive(Debug, Clone)]
pub struct Entry {
    /// The name, as it stands in the header; more than 100 bytes are cut off.
    pub name: Vec<u8>,
    /// The kind of entry.
    pub kind: u8,
    /// The permissions.
    pub mode: u32,
    /// The owner's number.
    pub owner: u32,
    /// What a link points to.
    pub link: String,
    /// The numbers of a device.
    pub device: (u32, u32),
    /// What the header says the size is, where that is not the length of the content.
    pub size: Option<u64>,
    /// The bytes after the header.
    pub content: Vec<u8>,
}

impl Entry {
    /// Returns an entry of a kind without content.
    pub fn new(name: impl AsRef<[u8]>, kind: u8) -> Self {
        Self {
            name: name.as_ref().to_vec(),
            kind,
            mode: if kind == b'5' { 0o755 } else { 0o644 },
            owner: 0,
            link: String::new(),
            device: (0, 0),
            size: None,
            content: Vec::new(),
        }
    }

    /// Sets the content.
    pub fn content(mut self, content: impl AsRef<[u8]>) -> Self {
        self.content = content.as_ref().to_vec();
        self
    }

    /// Sets what a link points to.
    pub fn link(mut self, target: &str) -> Self {
        target.clone_into(&mut self.link);
        self
    }

    /// Sets the permissions.
    pub fn mode(mut self, mode: u32) -> Self {
        self.mode = mode;
        self
    }

    /// Sets the owner's number.
    pub fn owner(mut self, owner: u32) -> Self {
        self.owner = owner;
        self
    }

    /// Sets the numbers of a device.
    pub fn device(mut self, major: u32, minor: u32) -> Self {
        self.device = (major, minor);
        self
    }

    /// Lets the header say another size.
    pub fn size(mut self, size: u64) -> Self {
        self.size = Some(size);
        self
    }

    /// Returns header and content, filled up to whole blocks.
    fn bytes(&self) -> Vec<u8> {
        let mut header = [0; 512];
        let mut field = |at: usize, length: usize, bytes: &[u8]| {
            let length = bytes.len().min(length);
            header[at..at + length].copy_from_slice(&bytes[..length]);
        };
        let size = self.size.unwrap_or(self.content.len() as u64);
        field(0, 100, &self.name);
        field(100, 8, format!("{:07o}", self.mode).as_bytes());
        field(108, 8, format!("{:07o}", self.owner).as_bytes());
        field(116, 8, format!("{:07o}", self.owner).as_bytes());
        field(124, 12, format!("{size:011o}").as_bytes());
        field(136, 12, b"15000000000");
        // The sum is made as if its own field were blank.
        field(148, 8, b"        ");
        field(156, 1, &[self.kind]);
        field(157, 100, self.link.as_bytes());
        field(257, 8, b"ustar\x0000");
        field(329, 8, format!("{:07o}", self.device.0).as_bytes());
        field(337, 8, format!("{:07o}", self.device.1).as_bytes());
        let sum: u32 = header.iter().map(|byte| u32::from(*byte)).sum();
        header[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
        let mut bytes = header.to_vec();
        bytes.extend(&self.content);
        bytes.resize(bytes.len().next_multiple_of(512), 0);
        bytes
    }
}

/// An archive that is being written.
#[derive(Debug, Clone, Default)]
pub struct Archive(Vec<u8>);

impl Archive {
    /// Adds an entry.
    pub fn entry(mut self, entry: &Entry) -> Self {
        self.0.extend(entry.bytes());
        self
    }

    /// Adds a regular file.
    pub fn file(self, path: &str, content: impl AsRef<[u8]>) -> Self {
        self.entry(&Entry::new(path, b'0').content(content))
    }

    /// Adds a directory.
    pub fn directory(self, path: &str) -> Self {
        self.entry(&Entry::new(path, b'5'))
    }

    /// Adds a symbolic link.
    pub fn symlink(self, path: &str, target: &str) -> Self {
        self.entry(&Entry::new(path, b'2').link(target).mode(0o777))
    }

    /// Adds a hard link.
    pub fn hard_link(self, path: &str, target: &str) -> Self {
        self.entry(&Entry::new(path, b'1').link(target))
    }

    /// Adds PAX records for the next entry.
    pub fn pax(self, records: &[(&str, &str)]) -> Self {
        self.records(b'x', records)
    }

    /// Adds PAX records of a kind: `x` for the next entry, `g` for all that follow.
    pub fn records(self, kind: u8, records: &[(&str, &str)]) -> Self {
        let text: String = records
            .iter()
            .map(|(key, value)| record(key, value))
            .collect();
        self.entry(&Entry::new("PaxHeaders.0/x", kind).content(text))
    }

    /// Adds a comment on the whole archive, as git does; clients do with the name of its header what they like.
    pub fn global_comment(self, name: &str) -> Self {
        self.entry(&Entry::new(name, b'g').content(record("comment", "made by git archive")))
    }

    /// Adds a name as GNU tar does that is too long for a header: `L` for the name, `K` for what a link points to.
    pub fn long_name(self, kind: u8, name: &str) -> Self {
        let content = [name.as_bytes(), b"\0"].concat();
        self.entry(&Entry::new("././@LongLink", kind).content(content))
    }

    /// Adds bytes as they are.
    pub fn raw(mut self, bytes: &[u8]) -> Self {
        self.0.extend(bytes);
        self
    }

    /// Ends the archive with two blocks of zeros.
    pub fn finish(self) -> Vec<u8> {
        self.raw(&[0; 1024]).0
    }

    /// Ends the archive after its last entry.
    pub fn without_end(self) -> Vec<u8> {
        self.0
    }
}

/// Returns a PAX record, which begins with its own length.
fn record(key: &str, value: &str) -> String {
    let rest = format!(" {key}={value}\n");
    let mut length = rest.len();
    while length != rest.len() + length.to_string().len() {
        length = rest.len() + length.to_string().len();
    }
    format!("{length}{rest}")
}
