//! A plugin's identity: its name, its version (the SHA-256 of its bytes) and its manifest.

use std::fmt;

use sha2::{Digest as _, Sha256};

use super::{name::Slug, pattern::Pattern, setting::Setting, trace::hex};

/// A version of a plugin: the SHA-256 of its file's bytes.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Digest([u8; 32]);

impl Digest {
    pub fn of(bytes: &[u8]) -> Self {
        Self(Sha256::digest(bytes).into())
    }

    pub const fn from_bytes(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    pub const fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }

    /// Reads all 64 hex digits, in lower case.
    pub fn parse(text: &str) -> Option<Self> {
        hex(text.as_bytes()).map(Self)
    }

    /// Returns the first six hex digits, as shown after a plugin's name: `order-router@3fa2c1`.
    pub fn short(&self) -> String {
        self.to_string()[..6].to_owned()
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }
}

/// The way in which a version was proposed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    /// As a file in the plugin folder of a node.
    File,
    /// Over the API.
    Upload,
    /// As a file that `innesco dev` built.
    Dev,
}

impl Way {
    pub const ALL: [Self; 3] = [Self::File, Self::Upload, Self::Dev];

    pub const fn as_str(self) -> &'static str {
        match self {
            Self::File => "file",
            Self::Upload => "upload",
            Self::Dev => "dev",
        }
    }

    pub fn parse(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|one| one.as_str() == text)
    }
}

/// State of a stored version.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum VersionState {
    /// The version was pushed without serving, and may be promoted.
    Candidate,
    Serving,
    /// The version served before, and may be promoted again.
    Kept,
}

impl VersionState {
    pub const ALL: [Self; 3] = [Self::Candidate, Self::Serving, Self::Kept];

    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Candidate => "candidate",
            Self::Serving => "serving",
            Self::Kept => "kept",
        }
    }

    pub fn parse(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|one| one.as_str() == text)
    }
}

/// Why a plugin that has a serving version does not run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Halt {
    /// A person disabled the plugin: it matches no new events, and its runs wait.
    Disabled,
    /// The plugin failed too often: it still matches new events, but its runs wait.
    Held,
}

impl Halt {
    pub const ALL: [Self; 2] = [Self::Disabled, Self::Held];

    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Disabled => "disabled",
            Self::Held => "held",
        }
    }

    pub fn parse(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|one| one.as_str() == text)
    }
}

/// The manifest that a plugin returns when it is loaded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Manifest {
    pub name: Slug,
    /// The author's version, for people; the digest identifies the version.
    pub version: String,
    pub description: String,
    /// Patterns of the event types that the plugin runs on. Empty for a plugin that runs only for endpoints that name it.
    pub on: Vec<Pattern>,
    pub settings: Vec<Setting>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_digest_is_read_as_it_is_written() {
        let digest = Digest::of(b"a plugin");
        let text = digest.to_string();
        assert_eq!(Digest::parse(&text), Some(digest));
        assert_eq!(text.find(&digest.short()), Some(0));
        for wrong in ["", &text[1..], &text.to_uppercase(), &format!("{text}0")] {
            assert_eq!(Digest::parse(wrong), None, "{wrong}");
        }
    }
}
