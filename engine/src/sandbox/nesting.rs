//! A look at a file's type declarations with a stack of our own, before anything recursive reads them.
//!
//! The parsers behind the engine follow two things by recursion, without an end: types nested in types, and packages that use each
//! other in a circle. A file of a few kilobytes can have either, and a native stack that overflows takes the whole engine down.

use wasmparser::{
    BinaryReader, ComponentAlias, ComponentExternName, ComponentImport, ComponentType, ComponentTypeRef, CoreType,
    InstanceTypeDeclaration, Parser, Payload,
};

use super::{diagnose::broken, error::LoadError};

/// How deep types may nest. What tools write is three deep.
const DEPTH_MAX: usize = 16;

/// Why a file must not be read any further.
enum Stop {
    Malformed(wasmparser::Error),
    TooDeep,
}

impl From<wasmparser::Error> for Stop {
    fn from(error: wasmparser::Error) -> Self {
        Self::Malformed(error)
    }
}

impl Stop {
    fn too_deep() -> LoadError {
        LoadError::TooDemanding { detail: format!("its types nest more than {DEPTH_MAX} deep") }
    }
}

/// Refuses types that nest too deep anywhere in the file, and packages in a circle in the types that a core module brings along.
pub fn check(bytes: &[u8]) -> Result<(), LoadError> {
    let mut packages = Vec::new();
    for payload in Parser::new(0).parse_all(bytes) {
        match payload.map_err(|error| broken(&error, bytes))? {
            Payload::ComponentTypeSection(section) => {
                let range = section.range();
                declarations(&bytes[range.clone()], range.start, |_| {}).map_err(|stop| match stop {
                    Stop::Malformed(error) => broken(&error, bytes),
                    Stop::TooDeep => Stop::too_deep(),
                })?;
            }
            Payload::CustomSection(section) if section.name().starts_with("component-type") => {
                embedded(section.data(), &mut packages).map_err(|stop| match stop {
                    Stop::Malformed(error) => LoadError::NotAComponent { detail: format!("its types cannot be read: {error}") },
                    Stop::TooDeep => Stop::too_deep(),
                })?;
            }
            _ => {}
        }
    }
    // A declaration can only refer to those before it. So there is no circle if each package stands in one piece.
    packages.dedup();
    let pieces = packages.len();
    packages.sort_unstable();
    packages.dedup();
    if packages.len() < pieces {
        let detail = "the interfaces in its types go to and fro between packages".to_owned();
        return Err(LoadError::NotAComponent { detail });
    }
    Ok(())
}

/// Walks the types that a core module brings along, which are a component, and adds the packages of its interfaces in their order.
fn embedded(types: &[u8], packages: &mut Vec<String>) -> Result<(), Stop> {
    for payload in Parser::new(0).parse_all(types) {
        if let Payload::ComponentTypeSection(section) = payload? {
            let range = section.range();
            declarations(&types[range.clone()], range.start, |name| {
                if let Some((package, interface)) = name.split_once('/') {
                    let version = interface.split_once('@').map_or("", |(_, version)| version);
                    packages.push(format!("{package}@{version}"));
                }
            })?;
        }
    }
    Ok(())
}

/// Walks the declarations of one section, and hands over the names of what they import and export.
fn declarations(section: &[u8], offset: usize, mut named: impl FnMut(&str)) -> Result<(), Stop> {
    let mut reader = BinaryReader::new(section, offset);
    // How many declarations are left on each level. The first level has types alone, and no byte that says so.
    let mut levels = vec![reader.read_var_u32()?];
    while let Some(left) = levels.last_mut() {
        if *left == 0 {
            levels.pop();
            continue;
        }
        *left -= 1;
        match if levels.len() == 1 { 1 } else { reader.read_u8()? } {
            0 => drop(reader.read::<CoreType<'_>>()?),
            1 => {
                let mut ahead = reader.clone();
                if !matches!(ahead.read_u8()?, 0x41 | 0x42) {
                    reader.read::<ComponentType<'_>>()?;
                } else if levels.len() == DEPTH_MAX {
                    return Err(Stop::TooDeep);
                } else {
                    levels.push(ahead.read_var_u32()?);
                    reader = ahead;
                }
            }
            2 => {
                reader.read::<ComponentAlias<'_>>()?;
            }
            3 => named(reader.read::<ComponentImport<'_>>()?.name.name),
            4 => {
                named(reader.read::<ComponentExternName<'_>>()?.name);
                reader.read::<ComponentTypeRef>()?;
            }
            // An unknown kind of declaration: the parser has the words for it.
            _ => drop(BinaryReader::new(&[0xff], offset).read::<InstanceTypeDeclaration<'_>>()?),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A component whose one type is `depth` component types, one in the other.
    fn nested(depth: usize) -> Vec<u8> {
        let mut section = vec![1];
        (0..depth).for_each(|_| section.extend([0x41, 1, 1]));
        section.extend([0x41, 0]);
        let mut bytes = b"\0asm\x0d\0\x01\0\x07".to_vec();
        let mut length = section.len();
        while length >= 0x80 {
            bytes.push(length as u8 | 0x80);
            length >>= 7;
        }
        bytes.push(length as u8);
        bytes.extend(section);
        bytes
    }

    #[test]
    fn types_that_nest_too_deep_are_refused_before_anyone_follows_them() {
        assert!(check(&nested(3)).is_ok());
        let error = check(&nested(1_000_000)).unwrap_err().to_string();
        assert_eq!(error, "it asks for more than a plugin gets: its types nest more than 16 deep");
    }

    #[test]
    fn packages_in_a_circle_are_refused() {
        let mut module = b"\0asm\x01\0\0\0".to_vec();
        let circle = wat::parse_str(
            r#"(component (type (component (type (component
                (type (instance)) (import "a:a/one" (instance (type 0)))
                (import "b:b/one" (instance (type 0)))
                (import "a:a/two" (instance (type 0)))
            )) (export "a:a/world" (component (type 0))))))"#,
        )
        .unwrap();
        let name = b"component-type";
        let length = 1 + name.len() + circle.len();
        module.extend([0, length as u8 | 0x80, (length >> 7) as u8, name.len() as u8]);
        module.extend(name);
        module.extend(circle);
        let error = check(&module).unwrap_err().to_string();
        assert!(error.contains("go to and fro between packages"), "{error}");
    }
}
