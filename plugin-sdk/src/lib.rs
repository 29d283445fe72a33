//! Write Innesco plugins.
