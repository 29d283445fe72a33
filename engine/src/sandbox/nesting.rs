//! Limits the structure of a plugin file before any recursive parser reads it.
//!
//! Validation, encoding and compiling follow some structures recursively, and some at quadratic cost: types nested in types,
//! types that are aliases of types, components nested in components, packages that use each other in a circle. This module counts
//! these structures in one pass, on an explicit stack, and refuses a file with more of them than any tool writes. Such a list of
//! structures is never complete, so the child process that loads a file (`child.rs`) has limits too. The limits here give a precise
//! error early.

use wasmparser::{
    BinaryReader, ComponentAlias, ComponentExternName, ComponentExternalKind, ComponentImport, ComponentOuterAliasKind,
    ComponentType, ComponentTypeRef, CoreType, InstanceTypeDeclaration, Parser, Payload, TypeBounds,
};

use super::{diagnose::broken, error::LoadError};

/// Maximum nesting of types. Tools write types three deep.
const TYPE_DEPTH_MAX: usize = 16;
/// Maximum nesting of components. Tools write one component in another; composing components adds one or two.
const COMPONENT_DEPTH_MAX: usize = 4;
/// Maximum number of components in a file. Tools write one for each exported interface.
const COMPONENTS_MAX: usize = 100;
/// Maximum number of core modules in a file. Tools write three; a Python component has tens, one for each of its libraries.
const MODULES_MAX: usize = 100;
/// Maximum number of core and component instances in a file. Tools write a few for each module and interface.
const INSTANCES_MAX: usize = 1_000;
/// Maximum number of types, imports and exports of components in a file. Tools write tens for each interface; all of WASI has
/// about a thousand.
const DECLARATIONS_MAX: usize = 10_000;
/// Maximum number of aliases in a file. Tools write one for each function and each shared type.
const ALIASES_MAX: usize = 10_000;
/// Maximum length of a chain of names that lead to one type. Tools write three for each interface that passes a type on.
const ALIAS_CHAIN_MAX: u32 = 64;

/// Why a file must not be read any further.
#[derive(Debug)]
enum Stop {
    Malformed(wasmparser::Error),
    TooMuch(String),
}

impl From<wasmparser::Error> for Stop {
    fn from(error: wasmparser::Error) -> Self {
        Self::Malformed(error)
    }
}

/// Refuses a file that exceeds a limit of this module, or in which a core module embeds types whose packages form a circle.
///
/// # Errors
///
/// [`LoadError::TooDemanding`] names the structure and its limit.
pub fn check(bytes: &[u8]) -> Result<(), LoadError> {
    let mut walk = Walk::default();
    let refused = |stop| match stop {
        Stop::Malformed(error) => broken(&error, bytes),
        Stop::TooMuch(detail) => LoadError::TooDemanding { detail },
    };
    let embedded = walk.file(bytes).map_err(refused)?;
    // Only embedded types are read by a parser that follows packages.
    walk.packages.clear();
    for types in embedded {
        walk.file(types).map_err(|stop| match stop {
            Stop::Malformed(error) => LoadError::NotAComponent { detail: format!("its types cannot be read: {error}") },
            Stop::TooMuch(detail) => LoadError::TooDemanding { detail },
        })?;
    }
    let mut packages = walk.packages;
    // A declaration can only refer to earlier ones. So there is no circle if the declarations of each package are contiguous.
    packages.dedup();
    let pieces = packages.len();
    packages.sort_unstable();
    packages.dedup();
    if packages.len() < pieces {
        let detail = "the interfaces in its types alternate between packages".to_owned();
        return Err(LoadError::NotAComponent { detail });
    }
    Ok(())
}

/// The counts so far, in a file and in the types that it embeds.
#[derive(Default)]
struct Walk {
    components: usize,
    modules: usize,
    instances: usize,
    declarations: usize,
    aliases: usize,
    /// Packages of the interfaces that component types import and export, in order.
    packages: Vec<String>,
}

/// Adds to a count, up to a limit.
fn count(total: &mut usize, more: usize, max: usize, of: &str) -> Result<(), Stop> {
    *total = total.saturating_add(more);
    if *total > max { Err(Stop::TooMuch(format!("it has more than {max} {of}"))) } else { Ok(()) }
}

impl Walk {
    /// Walks a file with everything nested in it. Returns the types that its core modules embed, which are components.
    fn file<'a>(&mut self, bytes: &'a [u8]) -> Result<Vec<&'a [u8]>, Stop> {
        let mut embedded = Vec::new();
        // Whether each open part is a component. The file itself is the first.
        let mut open = Vec::new();
        for payload in Parser::new(0).parse_all(bytes) {
            match payload? {
                Payload::Version { encoding, .. } => {
                    open.push(encoding == wasmparser::Encoding::Component);
                    if open.iter().filter(|is_component| **is_component).count() > COMPONENT_DEPTH_MAX {
                        return Err(Stop::TooMuch(format!("its components nest more than {COMPONENT_DEPTH_MAX} deep")));
                    }
                }
                Payload::End(_) => drop(open.pop()),
                Payload::ComponentSection { .. } => count(&mut self.components, 1, COMPONENTS_MAX, "components")?,
                Payload::ModuleSection { .. } => count(&mut self.modules, 1, MODULES_MAX, "core modules")?,
                Payload::InstanceSection(section) => self.instances(section.count())?,
                Payload::ComponentInstanceSection(section) => self.instances(section.count())?,
                Payload::ComponentAliasSection(section) => {
                    count(&mut self.aliases, section.count() as usize, ALIASES_MAX, "aliases")?;
                }
                Payload::ComponentImportSection(section) => self.declared(section.count() as usize)?,
                Payload::ComponentExportSection(section) => self.declared(section.count() as usize)?,
                Payload::CoreTypeSection(section) => self.declared(section.count() as usize)?,
                Payload::ComponentTypeSection(section) => {
                    let range = section.range();
                    self.declarations(&bytes[range.clone()], range.start)?;
                }
                Payload::CustomSection(section) if section.name().starts_with("component-type") => {
                    // Each embedded set of types is parsed as a component later, so it counts as a component.
                    count(&mut self.components, 1, COMPONENTS_MAX, "components")?;
                    embedded.push(section.data());
                }
                _ => {}
            }
        }
        Ok(embedded)
    }

    fn instances(&mut self, more: u32) -> Result<(), Stop> {
        count(&mut self.instances, more as usize, INSTANCES_MAX, "instances")
    }

    fn declared(&mut self, more: usize) -> Result<(), Stop> {
        count(&mut self.declarations, more, DECLARATIONS_MAX, "types, imports and exports")
    }

    /// Walks the declarations of one section.
    fn declarations(&mut self, section: &[u8], offset: usize) -> Result<(), Stop> {
        let mut reader = BinaryReader::new(section, offset);
        // The first level has only types, without a byte for the kind.
        let mut levels = vec![Level::of(reader.read_var_u32()?)];
        while let Some(level) = levels.last_mut() {
            if level.left == 0 {
                let chain = level.longest;
                levels.pop();
                if let Some(outer) = levels.last_mut() {
                    outer.add_type(chain)?;
                }
                continue;
            }
            level.left -= 1;
            self.declared(1)?;
            match if levels.len() == 1 { 1 } else { reader.read_u8()? } {
                0 => drop(reader.read::<CoreType<'_>>()?),
                1 => {
                    let mut ahead = reader.clone();
                    if !matches!(ahead.read_u8()?, 0x41 | 0x42) {
                        reader.read::<ComponentType<'_>>()?;
                        last(&mut levels).add_type(0)?;
                    } else if levels.len() > TYPE_DEPTH_MAX {
                        return Err(Stop::TooMuch(format!("its types nest more than {TYPE_DEPTH_MAX} deep")));
                    } else {
                        levels.push(Level::of(ahead.read_var_u32()?));
                        reader = ahead;
                    }
                }
                2 => {
                    count(&mut self.aliases, 1, ALIASES_MAX, "aliases")?;
                    alias(&reader.read::<ComponentAlias<'_>>()?, &mut levels)?;
                }
                3 => {
                    let import = reader.read::<ComponentImport<'_>>()?;
                    self.named(import.name.name);
                    last(&mut levels).add(import.ty)?;
                }
                4 => {
                    self.named(reader.read::<ComponentExternName<'_>>()?.name);
                    let ty = reader.read::<ComponentTypeRef>()?;
                    last(&mut levels).add(ty)?;
                }
                // The kind of declaration is unknown. This makes the parser report that error.
                _ => drop(BinaryReader::new(&[0xff], offset).read::<InstanceTypeDeclaration<'_>>()?),
            }
        }
        Ok(())
    }

    fn named(&mut self, name: &str) {
        if let Some((package, interface)) = name.split_once('/') {
            let version = interface.split_once('@').map_or("", |(_, version)| version);
            self.packages.push(format!("{package}@{version}"));
        }
    }
}

/// The declarations of one component or instance type.
struct Level {
    /// Number of declarations still to be read.
    left: u32,
    /// For each type: the number of names that lead to it, or to a type in it.
    types: Vec<u32>,
    /// For each instance: the number of names that lead to it, or to a type in it.
    instances: Vec<u32>,
    longest: u32,
}

impl Level {
    fn of(left: u32) -> Self {
        Self { left, types: Vec::new(), instances: Vec::new(), longest: 0 }
    }

    fn add_type(&mut self, chain: u32) -> Result<(), Stop> {
        if chain > ALIAS_CHAIN_MAX {
            return Err(Stop::TooMuch(format!("more than {ALIAS_CHAIN_MAX} names in a row lead to one of its types")));
        }
        self.longest = self.longest.max(chain);
        self.types.push(chain);
        Ok(())
    }

    /// Adds an import or export. The validator refuses an index that does not exist.
    fn add(&mut self, ty: ComponentTypeRef) -> Result<(), Stop> {
        let chain = |index: u32| self.types.get(index as usize).copied().unwrap_or(0);
        match ty {
            ComponentTypeRef::Type(TypeBounds::Eq(index)) => self.add_type(chain(index) + 1),
            ComponentTypeRef::Type(TypeBounds::SubResource) => self.add_type(0),
            ComponentTypeRef::Instance(index) => {
                self.instances.push(chain(index));
                Ok(())
            }
            _ => Ok(()),
        }
    }
}

fn last(levels: &mut [Level]) -> &mut Level {
    levels.last_mut().expect("the walk ends with the last level")
}

fn alias(alias: &ComponentAlias<'_>, levels: &mut [Level]) -> Result<(), Stop> {
    match *alias {
        ComponentAlias::InstanceExport { kind, instance_index, .. } => {
            let level = last(levels);
            let chain = level.instances.get(instance_index as usize).copied().unwrap_or(0);
            match kind {
                ComponentExternalKind::Type => level.add_type(chain + 1),
                ComponentExternalKind::Instance => {
                    level.instances.push(chain);
                    Ok(())
                }
                _ => Ok(()),
            }
        }
        ComponentAlias::Outer { kind: ComponentOuterAliasKind::Type, count, index } => {
            let outer = levels.len().checked_sub(1 + count as usize).and_then(|place| levels.get(place));
            let chain = outer.and_then(|level| level.types.get(index as usize)).copied().unwrap_or(0);
            last(levels).add_type(chain + 1)
        }
        ComponentAlias::Outer { .. } | ComponentAlias::CoreInstanceExport { .. } => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn leb(mut number: usize) -> Vec<u8> {
        let mut bytes = Vec::new();
        while number >= 0x80 {
            bytes.push(number as u8 | 0x80);
            number >>= 7;
        }
        bytes.push(number as u8);
        bytes
    }

    fn section(id: u8, content: &[u8]) -> Vec<u8> {
        [&[id][..], &leb(content.len()), content].concat()
    }

    const COMPONENT: &[u8] = b"\0asm\x0d\0\x01\0";

    fn component(sections: &[u8]) -> Vec<u8> {
        [COMPONENT, sections].concat()
    }

    /// A component whose only type is `depth` nested component types.
    fn types_in_types(depth: usize) -> Vec<u8> {
        component(&section(7, &[&[1][..], &[0x41, 1, 1].repeat(depth), &[0x41, 0]].concat()))
    }

    fn components_in_components(depth: usize) -> Vec<u8> {
        (1..depth).fold(component(&[]), |inner, _| component(&section(4, &inner)))
    }

    /// A component with one instance type, in which `length` names lead to one type.
    fn chain(length: usize) -> Vec<u8> {
        let name = |n: usize| {
            let text = format!("a{n}");
            [&[4, 0], &leb(text.len())[..], text.as_bytes(), &[3, 0], &leb(n)].concat()
        };
        let names: Vec<u8> = (0..length).flat_map(name).collect();
        component(&section(7, &[&[1, 0x42], &leb(length + 1)[..], &[1, 0x7d], &names].concat()))
    }

    /// A core module that embeds these types.
    fn embedding(types: &[u8]) -> Vec<u8> {
        [b"\0asm\x01\0\0\0", &section(0, &[&[14], &b"component-type"[..], types].concat())[..]].concat()
    }

    #[test]
    fn refuses_a_file_that_exceeds_a_structural_limit() {
        let modules = |count: usize| component(&section(1, b"\0asm\x01\0\0\0").repeat(count));
        let components = |count: usize| component(&section(4, COMPONENT).repeat(count));
        let announced = |id: u8, count: usize| component(&section(id, &leb(count)));
        let cases: [(Vec<u8>, Vec<u8>, &str); 9] = [
            (types_in_types(15), types_in_types(1_000_000), "its types nest more than 16 deep"),
            (components_in_components(4), components_in_components(1_000), "its components nest more than 4 deep"),
            (announced(3, 10_000), announced(3, 10_001), "it has more than 10000 types, imports and exports"),
            (chain(64), chain(65), "more than 64 names in a row lead to one of its types"),
            (embedding(&chain(64)), embedding(&chain(65)), "more than 64 names in a row lead to one of its types"),
            (modules(100), modules(101), "it has more than 100 core modules"),
            (components(100), components(101), "it has more than 100 components"),
            (announced(2, 1_000), announced(5, 1_001), "it has more than 1000 instances"),
            (announced(6, 10_000), announced(6, 10_001), "it has more than 10000 aliases"),
        ];
        for (taken, refused, reason) in cases {
            assert!(!matches!(check(&taken), Err(LoadError::TooDemanding { .. })), "{reason}: {:?}", check(&taken));
            let error = check(&refused).unwrap_err().to_string();
            assert_eq!(error, format!("it exceeds a limit of plugins: {reason}"));
        }
    }

    #[test]
    fn follows_names_through_aliases() {
        // Each interface passes on the type of the previous one.
        let passes_on = |count: usize| {
            let mut text = String::from(
                "(component (type (component (import \"a:a/i0\" (instance (type (;0;) bool) (export \"t\" (type (eq 0)))))\n",
            );
            for n in 1..count {
                text += &format!(
                    "(alias export {} \"t\" (type)) (import \"a:a/i{n}\" (instance (alias outer 1 {} (type)) (export \"t\" (type (eq 0)))))\n",
                    n - 1,
                    2 * n - 1
                );
            }
            wat::parse_str(text + ")))").unwrap()
        };
        assert!(check(&passes_on(20)).is_ok());
        let error = check(&passes_on(30)).unwrap_err().to_string();
        assert!(error.contains("64 names in a row"), "{error}");
    }

    #[test]
    fn refuses_circular_packages() {
        let circle = wat::parse_str(
            r#"(component (type (component (type (component
                (type (instance)) (import "a:a/one" (instance (type 0)))
                (import "b:b/one" (instance (type 0)))
                (import "a:a/two" (instance (type 0)))
            )) (export "a:a/world" (component (type 0))))))"#,
        )
        .unwrap();
        let module = embedding(&circle);
        let error = check(&module).unwrap_err().to_string();
        assert!(error.contains("alternate between packages"), "{error}");
    }
}
