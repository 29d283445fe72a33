//! Which function, file and line an offset in compiled code belongs to.
//!
//! The debug information of a plugin is large, is untrusted, and is needed only after a failure. So it never reaches the compiler
//! ([`stripped`]), and it is read once, where a file is compiled: in the child process, within a budget ([`build`]). The result
//! is a small table of fixed form. The engine stores it beside the code, and reads it after the first failure of a version
//! ([`Lines`]).
//!
//! What must stay true: debug information changes neither whether a file loads nor the code that runs. Any fault in it costs at
//! most the lines of a backtrace.

mod dwarf;
mod parts;
mod path;
mod table;

#[cfg(test)]
mod tests;

pub use parts::stripped;
pub use table::{Line, Lines, build};
