//! The limits of a plugin's runs, as they are in force on this node.

use std::sync::Arc;

use axum::{
    extract::{Path, State},
    response::Response,
};
use maud::html;

use super::{Tab, read, tab_page};
use crate::{
    api::Problem,
    ui::{Ui, in_force, visit::Visit},
};

pub async fn show(State(ui): State<Arc<Ui>>, visit: Visit, Path(name): Path<String>) -> Result<Response, Problem> {
    let plugin = read(&ui, &visit, name).await?;
    let t = &visit.texts().plugins;
    let body = html! {
        div #limits.section { (in_force::table(&visit, &ui, t.limits, &["plugin."])) }
        p #limits-says.hint { (t.limits_says) }
    };
    Ok(tab_page(&ui, &visit, &plugin, Tab::Limits, body).await)
}
