//! How the path of a source file is shown: as its author knows it, and without the folders of the machine that built it.

use crate::sandbox::log::printable;

/// Maximum length of a path, in bytes; a longer path is cut.
const PATH_BYTES: usize = 200;

/// A path to show.
#[derive(Debug, PartialEq, Eq)]
pub struct ShownPath {
    pub text: String,
    /// Whether the file is part of Rust or of the SDK, which the author of a plugin does not change.
    pub is_glue: bool,
}

/// Joins the parts of a path as debug information has them. An absolute part replaces all parts before it.
pub fn join(parts: [&str; 3]) -> String {
    let mut names: Vec<&str> = Vec::new();
    let mut root = "";
    for part in parts {
        if part.starts_with(['/', '\\']) || part.get(1..2) == Some(":") {
            names.clear();
            root = if part.starts_with(['/', '\\']) { "/" } else { "" };
        }
        for name in part.split(['/', '\\']) {
            match name {
                "" | "." => {}
                ".." if names.last().is_some_and(|last| *last != "..") => drop(names.pop()),
                name => names.push(name),
            }
        }
    }
    format!("{root}{}", names.join("/"))
}

/// Returns the folder of the crate to which a source file belongs.
pub fn crate_of(path: &str) -> Option<&str> {
    path.rsplit_once("/src/").or_else(|| path.rsplit_once('/')).map(|(folder, _)| folder)
}

/// Returns how a path is shown to the author of the crate in the folder `own`: from that folder on, such as `src/lib.rs`. The path
/// of a file in another crate begins with that crate, such as `serde_json-1.0.1/src/de.rs`.
pub fn shown(path: &str, own: Option<&str>) -> ShownPath {
    let show = |text: &str, is_glue| ShownPath { text: printable(text, PATH_BYTES).replace(['\n', '\t'], " "), is_glue };
    if path.starts_with("/rustc/") || path.contains("/rustlib/src/rust/") || path.starts_with("/rust/deps/") {
        let text = path.rsplit_once("/library/").or_else(|| path.split_once("/deps/")).map_or(path, |(_, rest)| rest);
        return show(text, true);
    }
    if let Some((_, rest)) = path.split_once("/registry/src/") {
        let rest = rest.split_once('/').map_or(rest, |(_, rest)| rest);
        return show(rest, ["innesco-sdk-", "wit-bindgen-"].iter().any(|glue| rest.starts_with(glue)));
    }
    for sdk in ["/plugin-sdk/src/", "/.innesco/sdk/src/"] {
        if let Some((_, rest)) = path.rsplit_once(sdk) {
            return show(&format!("innesco-sdk/src/{rest}"), true);
        }
    }
    if let Some((_, rest)) = path.split_once("/git/checkouts/") {
        // The first folder is that of a repository, and its name ends with a hash. The second is that of a commit.
        let mut parts = rest.splitn(3, '/');
        if let (Some(repository), Some(_), Some(file)) = (parts.next(), parts.next(), parts.next()) {
            let name = repository.rsplit_once('-').map_or(repository, |(name, _)| name);
            return show(&format!("{name}/{file}"), false);
        }
    }
    if let Some(rest) = own.and_then(|own| path.strip_prefix(own)?.strip_prefix('/')) {
        return show(rest, false);
    }
    let (folder, _) = path.rsplit_once("/src/").or_else(|| path.rsplit_once('/')).unwrap_or(("", path));
    let start = folder.rfind('/').map_or(0, |slash| slash + 1);
    show(path.get(start..).unwrap_or(path).trim_start_matches('/'), false)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_become_one_path() {
        for (parts, path) in [
            (["/srv", "plugins/a/src", "lib.rs"], "/srv/plugins/a/src/lib.rs"),
            (["/srv", "", "./plugins/../shared/src/lib.rs"], "/srv/shared/src/lib.rs"),
            (["/srv", "/elsewhere/src", "lib.rs"], "/elsewhere/src/lib.rs"),
            (["C:\\srv", "src", "lib.rs"], "C:/srv/src/lib.rs"),
            (["", "..", "lib.rs"], "../lib.rs"),
            (["", "", ""], ""),
        ] {
            assert_eq!(join(parts), path, "{parts:?}");
        }
    }

    #[test]
    fn paths_are_shown_from_their_crate_on() {
        let own = Some("/home/ann/shop/plugins/router");
        for (path, text, is_glue) in [
            ("/home/ann/shop/plugins/router/src/lib.rs", "src/lib.rs", false),
            ("/home/ann/shop/plugins/router/src/money/mod.rs", "src/money/mod.rs", false),
            ("/home/ann/shop/shared/src/lib.rs", "shared/src/lib.rs", false),
            ("/home/ann/shop/plugins/router2/src/lib.rs", "router2/src/lib.rs", false),
            (
                "/home/ann/.cargo/registry/src/index.crates.io-1949/serde_json-1.0.154/src/de.rs",
                "serde_json-1.0.154/src/de.rs",
                false,
            ),
            (
                "/home/ann/.cargo/registry/src/index.crates.io-1949/wit-bindgen-0.61.1/src/lib.rs",
                "wit-bindgen-0.61.1/src/lib.rs",
                true,
            ),
            ("/home/ann/.cargo/git/checkouts/money-1f2e3d/abc123/src/lib.rs", "money/src/lib.rs", false),
            ("/home/ann/shop/.innesco/sdk/src/guest.rs", "innesco-sdk/src/guest.rs", true),
            ("/rustc/59807616e1/library/core/src/option.rs", "core/src/option.rs", true),
            ("/rust/deps/dlmalloc-0.2.8/src/dlmalloc.rs", "dlmalloc-0.2.8/src/dlmalloc.rs", true),
            ("lib.rs", "lib.rs", false),
            ("", "", false),
            ("/tmp/\u{1b}[2Ja.rs", "tmp/[2Ja.rs", false),
        ] {
            assert_eq!(shown(path, own), ShownPath { text: text.into(), is_glue }, "{path}");
        }
        assert_eq!(crate_of("/a/src/money/mod.rs"), Some("/a"));
        assert_eq!(crate_of("/a/lib.rs"), Some("/a"));
    }
}
