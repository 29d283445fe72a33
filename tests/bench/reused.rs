//! A plugin whose instance is kept between calls, in wasmtime alone: what a fresh instance for each call costs on top.

use anyhow::{Context as _, anyhow};
use wasmtime::{
    Config, Engine, Store,
    component::{Component, HasSelf, Linker},
};

use self::contract::{
    PluginPre,
    innesco::plugin::{config, log, state, types},
};

mod contract {
    wasmtime::component::bindgen!({ path: "../plugin-sdk/wit", world: "plugin", ownership: Borrowing { duplicate_if_necessary: true } });
}

/// Compiled code, linked to functions that do nothing.
pub struct Reused {
    engine: Engine,
    pre: PluginPre<Nothing>,
}

impl Reused {
    /// Compiles a core module, with the options that decide about the speed of the engine's plugins.
    pub fn compile(module: &[u8]) -> anyhow::Result<Self> {
        let mut config = Config::new();
        config.epoch_interruption(true).concurrency_support(false).cranelift_nan_canonicalization(true);
        let engine = Engine::new(&config)?;
        let component = wit_component::ComponentEncoder::default().module(module)?.encode()?;
        let mut linker = Linker::new(&engine);
        contract::Plugin::add_to_linker::<Nothing, HasSelf<Nothing>>(&mut linker, |nothing| nothing)?;
        let pre = PluginPre::new(linker.instantiate_pre(&Component::new(&engine, component)?)?)?;
        Ok(Self { engine, pre })
    }

    pub fn instance(&self) -> anyhow::Result<Instance> {
        let mut store = Store::new(&self.engine, Nothing);
        store.set_epoch_deadline(u64::MAX / 2);
        let plugin = self.pre.instantiate(&mut store)?;
        Ok(Instance { store, plugin })
    }
}

/// One instance.
pub struct Instance {
    store: Store<Nothing>,
    plugin: contract::Plugin,
}

impl Instance {
    /// Passes an order to the plugin, and returns the size of the webhook's body.
    pub fn call(&mut self, order: &[u8]) -> anyhow::Result<usize> {
        let event = types::Event {
            id: "evt_1",
            source: "shop",
            type_: "order.created",
            subject: None,
            time: "2025-11-24T16:00:00Z",
            content_type: "application/json",
            data: order,
            attributes: &[],
        };
        let outcome = self.plugin.innesco_plugin_handler().call_handle(&mut self.store, event)?;
        let outcome = outcome.map_err(|failure| anyhow!(failure.message))?;
        Ok(outcome.webhooks.first().context("it asks for a webhook")?.body.len())
    }
}

/// The host of a plugin that calls no function.
struct Nothing;

impl types::Host for Nothing {}

impl log::Host for Nothing {
    fn write(&mut self, _: String, _: String) {}

    fn write_with(&mut self, _: String, _: String, _: Vec<(String, String)>) {}
}

impl config::Host for Nothing {
    fn get(&mut self, _: String) -> Option<String> {
        None
    }
}

impl state::Host for Nothing {
    fn get(&mut self, _: String) -> Option<Vec<u8>> {
        None
    }

    fn set(&mut self, _: String, _: Vec<u8>) {}

    fn set_for(&mut self, _: String, _: Vec<u8>, _: u64) {}

    fn delete(&mut self, _: String) {}
}
