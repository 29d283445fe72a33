//! The files of the dashboard: stylesheet, script, icons. They are compiled into the program. The digest in the address changes
//! with the content, so browsers may cache a file forever.

use std::sync::LazyLock;

use axum::{
    extract::Path,
    http::{StatusCode, header},
    response::{IntoResponse as _, Redirect, Response},
};
use sha2::{Digest as _, Sha256};

/// One file.
pub struct Asset {
    pub name: &'static str,
    content_type: &'static str,
    pub text: &'static str,
    digest: String,
}

impl Asset {
    fn new(name: &'static str, content_type: &'static str, text: &'static str) -> Self {
        let digest = Sha256::digest(text).iter().take(6).map(|byte| format!("{byte:02x}")).collect();
        Self { name, content_type, text, digest }
    }

    /// Returns the path under which browsers find this content.
    pub fn path(&self) -> String {
        format!("/static/{}/{}", self.digest, self.name)
    }
}

pub static STYLE: LazyLock<Asset> =
    LazyLock::new(|| Asset::new("style.css", "text/css; charset=utf-8", include_str!("style.css")));
pub static SCRIPT: LazyLock<Asset> =
    LazyLock::new(|| Asset::new("live.js", "text/javascript; charset=utf-8", include_str!("live.js")));
pub static INPUT: LazyLock<Asset> =
    LazyLock::new(|| Asset::new("input.js", "text/javascript; charset=utf-8", include_str!("input.js")));
pub static ICONS: LazyLock<Asset> = LazyLock::new(|| Asset::new("icons.svg", "image/svg+xml", include_str!("icons.svg")));
pub static MARK: LazyLock<Asset> = LazyLock::new(|| Asset::new("mark.svg", "image/svg+xml", include_str!("mark.svg")));

/// Answers with a file. An address with an old digest redirects to the address with the current digest.
pub async fn serve(Path((digest, file)): Path<(String, String)>) -> Response {
    let Some(asset) = [&*STYLE, &*SCRIPT, &*INPUT, &*ICONS, &*MARK].into_iter().find(|asset| asset.name == file) else {
        return StatusCode::NOT_FOUND.into_response();
    };
    if digest != asset.digest {
        return Redirect::to(&asset.path()).into_response();
    }
    let headers = [(header::CONTENT_TYPE, asset.content_type), (header::CACHE_CONTROL, "public, max-age=31536000, immutable")];
    (headers, asset.text).into_response()
}

/// Redirects browsers that ask for `/favicon.ico` to the icon.
pub async fn favicon() -> Redirect {
    Redirect::to(&MARK.path())
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn files_stay_within_their_size_limits() {
        assert!(SCRIPT.text.len() <= 12 << 10, "the script has {} bytes", SCRIPT.text.len());
        assert!(INPUT.text.len() <= 4 << 10, "input.js has {} bytes", INPUT.text.len());
        assert!(STYLE.text.len() <= 48 << 10, "the stylesheet has {} bytes", STYLE.text.len());
    }

    #[test]
    fn every_icon_that_a_page_names_exists() {
        let known: BTreeSet<&str> = ICONS.text.split("<symbol id=\"").skip(1).filter_map(|rest| rest.split('"').next()).collect();
        for (path, text) in super::super::texts::tests::sources() {
            for rest in text.split("icon(\"").skip(1) {
                let name = rest.split('"').next().unwrap_or_default();
                assert!(
                    known.contains(format!("i-{name}").as_str()),
                    "{path} uses the icon {name:?}, which icons.svg does not have"
                );
            }
        }
        for shape in super::super::parts::state::SHAPES {
            assert!(known.contains(format!("i-{shape}").as_str()), "{shape}");
        }
    }

    /// Reads the value of a token for light or dark.
    fn token(name: &str, dark: bool) -> [f64; 3] {
        let line = STYLE
            .text
            .lines()
            .find(|line| line.trim_start().starts_with(&format!("--{name}:")))
            .unwrap_or_else(|| panic!("no --{name}"));
        let inside = line.split_once("light-dark(").expect("two values").1.split(')').next().expect("an end");
        let (light, night) = inside.split_once(',').expect("two values");
        let hex = if dark { night } else { light }.trim().trim_start_matches('#');
        [0, 2, 4].map(|at| f64::from(u8::from_str_radix(&hex[at..at + 2], 16).expect("a colour")) / 255.0)
    }

    /// The contrast of WCAG 2.
    fn contrast(one: [f64; 3], other: [f64; 3]) -> f64 {
        let luminance = |colour: [f64; 3]| {
            let [red, green, blue] =
                colour.map(|part| if part <= 0.04045 { part / 12.92 } else { ((part + 0.055) / 1.055).powf(2.4) });
            0.2126 * red + 0.7152 * green + 0.0722 * blue
        };
        let (one, other) = (luminance(one), luminance(other));
        (one.max(other) + 0.05) / (one.min(other) + 0.05)
    }

    #[test]
    fn colours_have_the_contrast_of_the_design_in_light_and_dark() {
        for dark in [false, true] {
            let check = |front: &str, back: &str, least: f64| {
                let found = contrast(token(front, dark), token(back, dark));
                assert!(found >= least, "--{front} on --{back} has {found:.2}, dark: {dark}");
            };
            for ground in ["page", "surface", "sunken", "hover"] {
                check("text", ground, if ground == "hover" { 13.0 } else { 14.4 });
                check("muted", ground, 5.4);
                check("focus", ground, 3.0);
                if ground != "hover" {
                    check("control", ground, 3.0);
                }
            }
            check("spark", "page", 3.0);
            check("paper", "ink", 15.0);
            for state in ["ok", "calm", "wait", "bad", "held", "shadow"] {
                let tint = format!("{state}-tint");
                for ground in ["page", "surface", "sunken", "hover", &tint] {
                    check(state, ground, 4.5);
                }
                check("text", &tint, 12.0);
                check("muted", &tint, 5.0);
            }
        }
    }
}
