//! The live status page: a skeleton from here, filled in by `page.js` with `/cluster` each second.
//!
//! Holds: nothing is fetched from elsewhere, so that it works in a closed network.

use maud::{DOCTYPE, Markup, PreEscaped, html};

use crate::wire::status::ServerStatus;

/// Look of both pages.
pub(super) const STYLE: &str = include_str!("page.css");
const SCRIPT: &str = include_str!("page.js");

/// The page as `server` gives it.
pub(super) fn render(server: &ServerStatus) -> Markup {
    let columns = |names: &[&str], numbers_from: usize| {
        html! { thead { tr { @for (i, name) in names.iter().enumerate() {
            th class=[(i >= numbers_from).then_some("n")] { (name) }
        } } } }
    };
    let meta = [
        "server",
        "role",
        "raft",
        "address",
        "term",
        "log",
        "lag",
        "applied",
        "snapshot",
        "requests/s",
        "memory",
    ];
    let data = ["server", "state", "address", "domain", "space", "blocks", "in flight", "reads", "writes"];
    html! {
        (DOCTYPE)
        html lang="en" {
            head {
                meta charset="utf-8";
                meta name="viewport" content="width=device-width, initial-scale=1";
                title { "POHMELFS" }
                link rel="icon" href="data:,";
                style { (PreEscaped(STYLE)) }
            }
            body {
                header { div {
                    h1 { "POHMELFS" }
                    span #health .pill { "…" }
                    span #cluster .dim .mono { (server.cluster.as_deref().unwrap_or_default()) }
                    span .grow {}
                    span .dim { (server.role) " server " b { (server.name) } " · " (server.version) }
                } }
                main {
                    div #stale .reason .bad { "This server gives no status of the cluster." span #why {} }
                    noscript { div .reason { "This page needs JavaScript. " a href="/cluster" { "/cluster" } " has the same as JSON." } }
                    div #reasons {}
                    div #cards .cards {}
                    h2 { "Metadata servers" }
                    div .wrap { table { (columns(&meta, 4)) tbody #meta {} } }
                    h2 { "Data servers" }
                    div .wrap { table { (columns(&data, 5)) tbody #data {} } }
                }
                footer {
                    "Answered by " span #by { (server.name) } ", renewed each second. "
                    a href="/cluster" { "cluster" } " · " a href="/status" { "this server" } " · "
                    a href="/metrics" { "metrics" } " · " a href="/docs" { "API" }
                }
                script { (PreEscaped(SCRIPT)) }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_is_fetched_from_elsewhere_and_names_are_escaped() {
        let server = ServerStatus { name: "<b>x".into(), ..Default::default() };
        let page = render(&server).into_string();
        assert!(page.contains("&lt;b&gt;x") && !page.contains("<b>x"));
        assert!(!page.contains("https://") && !page.contains("src="));
    }
}
