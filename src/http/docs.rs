//! The OpenAPI document as a page, rendered here: no script, nothing fetched from elsewhere.

use maud::{DOCTYPE, Markup, PreEscaped, html};
use serde_json::Value;

use super::page::STYLE;

/// The page of `document`.
pub(super) fn render(document: &utoipa::openapi::OpenApi) -> Markup {
    let document = serde_json::to_value(document).unwrap_or_default();
    let text = |value: &Value, key: &str| value[key].as_str().unwrap_or_default().to_owned();
    let entries = |value: &Value| value.as_object().cloned().unwrap_or_default();
    let tags = document["tags"].as_array().cloned().unwrap_or_default();
    html! {
        (DOCTYPE)
        html lang="en" {
            head {
                meta charset="utf-8";
                meta name="viewport" content="width=device-width, initial-scale=1";
                title { "POHMELFS API" }
                link rel="icon" href="data:,";
                style { (PreEscaped(STYLE)) }
            }
            body {
                header { div {
                    h1 { (text(&document["info"], "title")) " API" }
                    span .pill { (text(&document["info"], "version")) }
                    span .grow {}
                    a href="/openapi.json" { "openapi.json" }
                    a href="/" { "status page" }
                } }
                main {
                    p { (text(&document["info"], "description")) }
                    @for tag in &tags {
                        h2 { (text(tag, "description")) }
                        @for (path, operations) in entries(&document["paths"]) {
                            @for (method, operation) in entries(&operations) {
                                @if operation["tags"][0] == tag["name"] { (render_operation(&path, &method, &operation)) }
                            }
                        }
                    }
                    h2 { "Schemas" }
                    @for (name, schema) in entries(&document["components"]["schemas"]) {
                        details id=(name) {
                            summary { h3 .mono { (name) } span .dim { (text(&schema, "description")) } }
                            div { (render_schema(&schema)) }
                        }
                    }
                }
                footer { "Errors are JSON: " span .mono { "{\"code\", \"error\", \"hint\"}" } }
            }
        }
    }
}

fn render_operation(path: &str, method: &str, operation: &Value) -> Markup {
    let parameters = operation["parameters"].as_array().cloned().unwrap_or_default();
    let responses = operation["responses"].as_object().cloned().unwrap_or_default();
    let summary = operation["summary"].as_str().or(operation["description"].as_str()).unwrap_or_default();
    html! {
        details open[!parameters.is_empty()] {
            summary {
                span .pill .ok { (method.to_uppercase()) }
                @if parameters.is_empty() { h3 .mono { a href=(path) { (path) } } } @else { h3 .mono { (path) } }
                span .dim { (summary) }
            }
            div { table { tbody {
                @for p in &parameters { tr {
                    td .mono { "?" (p["name"].as_str().unwrap_or_default()) "=" }
                    td { (p["description"].as_str().unwrap_or_default()) }
                    td .dim { @if p["required"] == true { "required" } }
                } }
                @for (status, response) in &responses { tr {
                    td { span .pill { (status) } }
                    td { (response["description"].as_str().unwrap_or_default()) }
                    td .mono { @for (kind, content) in response["content"].as_object().into_iter().flatten() {
                        (render_type(&content["schema"])) " " span .dim { (kind) }
                    } }
                } }
            } } }
        }
    }
}

fn render_schema(schema: &Value) -> Markup {
    html! { table { tbody {
        @for (name, property) in schema["properties"].as_object().into_iter().flatten() { tr {
            td .mono { (name) }
            td .mono { (render_type(property)) }
            td style="white-space:normal" { (property["description"].as_str().unwrap_or_default()) }
        } }
        @for value in schema["enum"].as_array().into_iter().flatten() { tr { td .mono { (value.as_str().unwrap_or_default()) } } }
    } } }
}

/// The type of a value: a link to a schema, or a word.
fn render_type(schema: &Value) -> Markup {
    if let Some(name) = schema["$ref"].as_str().and_then(|r| r.rsplit('/').next()) {
        return html! { a href={ "#" (name) } { (name) } };
    }
    if let Some(variants) = schema["oneOf"].as_array() {
        let known = variants.iter().filter(|v| v["type"] != "null");
        return html! { @for v in known { (render_type(v)) } " or null" };
    }
    match &schema["type"] {
        Value::String(word) if word == "array" => html! { "[" (render_type(&schema["items"])) "]" },
        Value::String(word) => html! { (word) },
        Value::Array(words) => {
            let words: Vec<&str> = words.iter().filter_map(Value::as_str).collect();
            html! { (words.join(" or ")) }
        }
        _ => html! {},
    }
}

#[cfg(test)]
mod tests {
    #[test]
    fn every_endpoint_and_schema_is_on_the_page() {
        let document = crate::http::openapi();
        let page = super::render(&document).into_string();
        assert!(document.paths.paths.len() >= 9);
        for path in document.paths.paths.keys() {
            assert!(page.contains(&format!(">{path}<")), "{path} is not on the page");
        }
        for name in document.components.unwrap().schemas.keys() {
            assert!(page.contains(&format!("id=\"{name}\"")), "{name} is not on the page");
        }
        assert!(!page.contains("<script"));
    }
}
