//! Makes plugin files that no tool would write, by changing real files at random. The same seed gives the same files.
//!
//! Randomly flipped bytes seldom pass the first check. So most changes follow the file's structure: they move, repeat, nest and
//! remove whole sections with matching lengths, also in the types that a core module embeds and in the contents of a component.

use rand::{Rng as _, RngExt as _, SeedableRng as _, rngs::StdRng};

/// Maximum number of repetitions of one section or one piece of a section.
const REPEATS_MAX: usize = 300;
/// Maximum number of components into which a file is nested.
const NESTING_MAX: usize = 40;
/// Maximum size of a resulting file, in bytes.
const BYTES_MAX: usize = 256 << 10;

/// A source of broken files.
pub struct Mutator {
    corpus: Vec<Vec<u8>>,
    random: StdRng,
}

impl Mutator {
    pub fn new(corpus: Vec<Vec<u8>>, seed: u64) -> Self {
        assert!(!corpus.is_empty(), "there is nothing to change");
        Self { corpus, random: StdRng::seed_from_u64(seed) }
    }

    /// Makes the next file.
    pub fn file(&mut self) -> Vec<u8> {
        let mut file = self.pick();
        for _ in 0..1 << self.random.random_range(0..4_u32) {
            file = self.change(&file, 0);
            if file.len() > BYTES_MAX {
                file.truncate(BYTES_MAX);
            }
        }
        file
    }

    /// Returns how often a piece of `bytes` bytes is repeated. All repetitions together stay within the maximum size of a file,
    /// because a longer file is cut off anyway.
    fn times(&mut self, bytes: usize) -> usize {
        self.random.random_range(1..REPEATS_MAX).min(BYTES_MAX / bytes.max(1) + 1)
    }

    fn pick(&mut self) -> Vec<u8> {
        let place = self.random.random_range(0..self.corpus.len());
        self.corpus[place].clone()
    }

    fn change(&mut self, file: &[u8], depth: usize) -> Vec<u8> {
        match self.random.random_range(0..10_u32) {
            0 => self.bytes(file.to_vec()),
            1 if depth == 0 => self.nested(file),
            _ => match Sections::parse(file) {
                Some(sections) => self.sections(sections, depth).to_bytes(),
                None => self.bytes(file.to_vec()),
            },
        }
    }

    /// Changes bytes regardless of their meaning.
    fn bytes(&mut self, mut bytes: Vec<u8>) -> Vec<u8> {
        if bytes.is_empty() {
            return vec![self.random.random_range(0..=u8::MAX)];
        }
        let at = self.random.random_range(0..bytes.len());
        let until = (at + 1 + self.random.random_range(0..16_usize)).min(bytes.len());
        match self.random.random_range(0..7_u32) {
            0 => bytes[at] ^= 1 << self.random.random_range(0..8_u32),
            1 => self.random.fill_bytes(&mut bytes[at..until]),
            2 => bytes.truncate(at),
            3 => drop(bytes.drain(at..until)),
            4 => {
                let piece = bytes[at..until].repeat(self.random.random_range(1..REPEATS_MAX));
                bytes.splice(at..at, piece);
            }
            // Replaces a byte by a number at the limit of a number range.
            5 => {
                let number = [0, 1, 0x7f, 0x80, 0x7fff_ffff, 0xffff_ffff][self.random.random_range(0..6_usize)];
                bytes.splice(at..=at, leb(number));
            }
            _ => {
                let padding = self.random.random_range(1..6_usize);
                bytes.splice(at..=at, [vec![0x80; padding], vec![0]].concat());
            }
        }
        bytes
    }

    /// Nests a file in components.
    fn nested(&mut self, file: &[u8]) -> Vec<u8> {
        let depth = self.random.random_range(1..NESTING_MAX);
        (0..depth).fold(file.to_vec(), |inner, _| {
            let id = if inner.get(4) == Some(&1) { 1 } else { 4 };
            Sections { head: *b"\0asm\x0d\0\x01\0", list: vec![(id, inner)] }.to_bytes()
        })
    }

    fn sections(&mut self, mut sections: Sections, depth: usize) -> Sections {
        let list = &mut sections.list;
        if list.is_empty() {
            let other = self.pick();
            return Sections::parse(&other).unwrap_or(sections);
        }
        let at = self.random.random_range(0..list.len());
        match self.random.random_range(0..12_u32) {
            0 => drop(list.remove(at)),
            1 => {
                let to = self.random.random_range(0..list.len());
                list.swap(at, to);
            }
            2 => {
                let section = list[at].clone();
                let times = self.times(section.1.len());
                list.splice(at..at, std::iter::repeat_n(section, times));
            }
            3 => list[at].0 = self.random.random_range(0..14),
            // Inserts a section of another file.
            4 => {
                let other = self.pick();
                if let Some(other) = Sections::parse(&other).filter(|other| !other.list.is_empty()) {
                    let from = self.random.random_range(0..other.list.len());
                    list.insert(at, other.list[from].clone());
                }
            }
            // Replaces the number of members by a wrong number.
            5 => {
                let count = [0, 1, 0x7f, 0x4000, 0xffff_ffff][self.random.random_range(0..5_usize)];
                let content = &mut list[at].1;
                if !content.is_empty() {
                    content.splice(0..1, leb(count));
                }
            }
            _ => {
                let (id, content) = list[at].clone();
                list[at].1 = self.content(id, content, depth);
            }
        }
        sections
    }

    /// Changes the content of a section. If the content is itself a file, changes the structure of that file.
    fn content(&mut self, id: u8, content: Vec<u8>, depth: usize) -> Vec<u8> {
        const TYPES: &[u8] = b"component-type";
        if depth < 4 && Sections::parse(&content).is_some() {
            return self.change(&content, depth + 1);
        }
        if id == 0
            && content.get(1..).is_some_and(|rest| rest.starts_with(TYPES))
            && let Some(types) = content.windows(4).position(|window| window == b"\0asm")
        {
            let changed = self.change(&content[types..], depth + 1);
            return [&content[..types], &changed].concat();
        }
        self.bytes(content)
    }
}

/// Divides a file into its sections, each with its number and content.
struct Sections {
    head: [u8; 8],
    list: Vec<(u8, Vec<u8>)>,
}

impl Sections {
    fn parse(file: &[u8]) -> Option<Self> {
        let (head, mut rest) = file.split_first_chunk::<8>()?;
        if !head.starts_with(b"\0asm") {
            return None;
        }
        let mut list = Vec::new();
        while let Some((id, after)) = rest.split_first() {
            let (length, after) = read_leb(after)?;
            let (content, after) = after.split_at_checked(length)?;
            list.push((*id, content.to_vec()));
            rest = after;
        }
        Some(Self { head: *head, list })
    }

    fn to_bytes(&self) -> Vec<u8> {
        let mut bytes = self.head.to_vec();
        for (id, content) in &self.list {
            bytes.push(*id);
            bytes.extend(leb(content.len() as u64));
            bytes.extend(content);
        }
        bytes
    }
}

fn leb(mut number: u64) -> Vec<u8> {
    let mut bytes = Vec::new();
    while number >= 0x80 {
        bytes.push(number as u8 | 0x80);
        number >>= 7;
    }
    bytes.push(number as u8);
    bytes
}

fn read_leb(bytes: &[u8]) -> Option<(usize, &[u8])> {
    let mut number = 0;
    for (place, byte) in bytes.iter().enumerate().take(5) {
        number |= usize::from(byte & 0x7f) << (7 * place);
        if byte & 0x80 == 0 {
            return Some((number, &bytes[place + 1..]));
        }
    }
    None
}

#[test]
fn the_same_seed_gives_the_same_files() {
    let files = |seed| {
        let mut mutator = Mutator::new(vec![super::wasm("echo"), super::wasm("state")], seed);
        (0..50).map(|_| mutator.file()).collect::<Vec<_>>()
    };
    assert_eq!(files(1), files(1));
    assert_ne!(files(1), files(2));
}
