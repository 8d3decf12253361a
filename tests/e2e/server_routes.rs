//! The table of routes, its document, and the server that runs say the same.

use std::collections::BTreeSet;

use coditect_server::routes::{self, Access};
use coditect_tests::api::{Api, send};
use coditect_tests::server::TestServer;
use reqwest::Method;
use serde_json::{Value, json};

const METHODS: [Method; 5] = [
    Method::GET,
    Method::POST,
    Method::PUT,
    Method::PATCH,
    Method::DELETE,
];

/// Method and path of every operation of a document.
fn operations(document: &Value) -> BTreeSet<(String, String)> {
    let paths = document["paths"].as_object().unwrap();
    paths
        .iter()
        .flat_map(|(path, item)| {
            let methods = item.as_object().unwrap().keys();
            methods.map(move |method| (method.to_uppercase(), path.clone()))
        })
        .collect()
}

#[tokio::test]
async fn the_document_has_every_route_of_the_table_and_no_other_with_what_its_role_must_allow() {
    let server = TestServer::start().await;
    let document: Value = Api::new(&server.url, "").get("/openapi.json").await.ok();
    assert_eq!(document["openapi"], "3.1.0");
    let table: BTreeSet<_> = routes::table()
        .iter()
        .map(|route| (route.method.to_string(), route.path.to_owned()))
        .collect();
    assert_eq!(operations(&document), table);
    for route in routes::table() {
        let operation = &document["paths"][route.path][route.method.as_str().to_lowercase()];
        match route.access {
            Access::Public => assert_eq!(operation["security"], json!([]), "{}", route.path),
            Access::May(action) | Access::Manage(action) => {
                assert_eq!(operation["security"], json!([{"bearer": []}]), "{}", route.path);
                assert_eq!(operation["x-action"], action.to_string(), "{}", route.path);
                assert!(operation["responses"]["401"].is_object(), "{}", route.path);
            }
        }
    }
}

#[tokio::test]
async fn the_server_answers_at_the_documents_routes_and_with_its_methods_alone() {
    let server = TestServer::start().await;
    let api = Api::new(&server.url, "");
    let document: Value = api.get("/openapi.json").await.ok();
    let known = operations(&document);
    let paths: BTreeSet<_> = known.iter().map(|(_, path)| path.clone()).collect();
    for path in paths {
        let url = path
            .replace("{id}", &uuid::Uuid::nil().to_string())
            .replace("{user_id}", &uuid::Uuid::nil().to_string());
        for method in METHODS {
            let reply = send(api.anonymous(method.clone(), &url)).await;
            let is_known = known.contains(&(method.to_string(), path.clone()));
            assert_eq!(reply.status != 405, is_known, "{method} {path}: {reply:?}");
            assert_ne!(reply.status, 404, "{method} {path}");
        }
    }
}

/// By construction a handler is mounted by the table alone; this keeps anybody from going around it.
#[test]
fn no_router_is_made_beside_the_table() {
    let mut folders = vec![concat!(env!("CARGO_MANIFEST_DIR"), "/../server/src").into()];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir::<std::path::PathBuf>(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
                continue;
            }
            let text = std::fs::read_to_string(&path).unwrap();
            let product = text.split("#[cfg(test)]").next().unwrap();
            let mounts = [".route(", ".nest(", ".route_service(", ".nest_service("]
                .iter()
                .any(|call| product.contains(call));
            assert_eq!(mounts, path.ends_with("routes.rs"), "{}", path.display());
        }
    }
}
