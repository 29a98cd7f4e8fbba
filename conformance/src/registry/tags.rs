//! end-8a and end-8b: which tags there are, in order, whole or in pages.

use std::sync::Arc;

use super::{Check, Registry, check};
use crate::{
    check::{Failure, Outcome, ensure},
    client::{Request, Response},
};

pub(super) const CHECKS: &[Check] = &[
    check!("the list has the name and every tag in order, by case or without", "end-8a MUST", order),
    check!("a repository without tags has an empty list", "end-8a MUST", untagged),
    check!("the list of a repository that is not there is 404 or empty", "end-8a MUST", missing),
    check!("n tags come when n are asked for, or a Link to more", "end-8b MUST", some),
    check!("following each Link shows every tag once, in order", "end-8b MUST", pages),
    check!("n larger than there are tags: all, and no Link", "end-8b MUST", more_than_all),
    check!("n=0 is an empty list without a Link", "end-8b MUST", none),
    check!("last with n: what comes after it, and not itself", "end-8b MUST", after),
];

/// In byte order. Without regard to case they would come otherwise.
const TAGS: [&str; 12] =
    ["0.9", "1.0", "10.0", "2.0", "Beta", "RC1", "_x", "alpha", "beta", "latest", "v1.0", "v1.0-rc.1"];

/// A repository with these tags, pushed in another order.
async fn tagged(registry: &Registry) -> Result<String, Failure> {
    let repository = registry.repository();
    let image = registry.image(&repository, None).await?;
    for tag in TAGS.iter().rev() {
        registry.put(&repository, tag, &image).await?;
    }
    Ok(repository)
}

async fn ask(registry: &Registry, repository: &str, query: &str) -> Result<(Response, Vec<String>), Failure> {
    let answer = registry.want(&[200], Request::get(format!("/v2/{repository}/tags/list{query}"))).await?;
    let json = answer.json();
    let tags = match &json["tags"] {
        serde_json::Value::Array(tags) => tags.iter().filter_map(|tag| tag.as_str().map(str::to_owned)).collect(),
        serde_json::Value::Null if answer.complete() && json.is_object() => Vec::new(),
        _ => return Err(format!("no tags in {}", answer.text()).into()),
    };
    Ok((answer, tags))
}

/// The target of `<target>; rel="next"`, when there is one.
fn next(answer: &Response) -> Result<Option<String>, Failure> {
    let Some(link) = answer.head.header("link") else { return Ok(None) };
    let target = link.split_once('<').and_then(|(_, rest)| rest.split_once('>'));
    match target {
        Some((target, rest)) if rest.contains("rel=\"next\"") || rest.contains("rel=next") => {
            Ok(Some(target.to_owned()))
        }
        _ => Err(format!("Link: {link}").into()),
    }
}

fn in_order(tags: &[String]) -> bool {
    let lexical = |tags: &[String]| tags.iter().map(|tag| tag.to_lowercase()).collect::<Vec<_>>();
    tags.is_sorted() || lexical(tags).is_sorted()
}

async fn order(registry: Arc<Registry>) -> Outcome {
    let repository = tagged(&registry).await?;
    let (answer, tags) = ask(&registry, &repository, "").await?;
    ensure!(answer.json()["name"] == *repository, "name {}", answer.json()["name"]);
    ensure!(tags.len() == TAGS.len() && in_order(&tags), "{tags:?}");
    Ok(if tags.is_sorted() { "byte order" } else { "lexical" }.into())
}

async fn untagged(registry: Arc<Registry>) -> Outcome {
    let repository = registry.repository();
    registry.image(&repository, None).await?;
    let (_, tags) = ask(&registry, &repository, "").await?;
    ensure!(tags.is_empty(), "{tags:?}");
    Ok("empty".into())
}

async fn missing(registry: Arc<Registry>) -> Outcome {
    let path = format!("/v2/{}/tags/list", registry.repository());
    let answer = registry.want(&[200, 404], Request::get(path)).await?;
    let empty = answer.json()["tags"].as_array().is_none_or(Vec::is_empty);
    ensure!(answer.status() == 404 || empty, "{}", answer.text());
    Ok(answer.describe())
}

async fn some(registry: Arc<Registry>) -> Outcome {
    let repository = tagged(&registry).await?;
    let (_, all) = ask(&registry, &repository, "").await?;
    let (answer, tags) = ask(&registry, &repository, "?n=5").await?;
    ensure!(tags.len() == 5 || tags.len() < 5 && next(&answer)?.is_some(), "{} tags, and no Link", tags.len());
    ensure!(all.starts_with(&tags), "{tags:?} do not begin {all:?}");
    Ok(format!("{} tags", tags.len()))
}

async fn pages(registry: Arc<Registry>) -> Outcome {
    let repository = tagged(&registry).await?;
    let (mut answer, mut have) = ask(&registry, &repository, "?n=5").await?;
    let mut count = 1;
    while let Some(target) = next(&answer)? {
        ensure!(count < 20, "the pages do not end");
        let target = match target.split_once("/tags/list") {
            Some((_, query)) => query.to_owned(),
            None => target,
        };
        let (following, tags) = ask(&registry, &repository, &target).await?;
        have.extend(tags);
        (answer, count) = (following, count + 1);
    }
    if count == 1 && have.len() < TAGS.len() {
        return Err(Failure::NotRun("this registry sends no Link, as it may".into()));
    }
    ensure!(have.len() == TAGS.len() && in_order(&have), "{have:?}");
    Ok(format!("{count} pages"))
}

async fn more_than_all(registry: Arc<Registry>) -> Outcome {
    let repository = tagged(&registry).await?;
    let (answer, tags) = ask(&registry, &repository, "?n=1000").await?;
    ensure!(tags.len() == TAGS.len(), "{tags:?}");
    ensure!(next(&answer)?.is_none(), "Link: {:?}", answer.head.header("link"));
    Ok("all".into())
}

async fn none(registry: Arc<Registry>) -> Outcome {
    let repository = tagged(&registry).await?;
    let (answer, tags) = ask(&registry, &repository, "?n=0").await?;
    ensure!(tags.is_empty(), "{tags:?}");
    ensure!(answer.head.header("link").is_none(), "Link: {:?}", answer.head.header("link"));
    Ok("empty".into())
}

async fn after(registry: Arc<Registry>) -> Outcome {
    let repository = tagged(&registry).await?;
    let (_, all) = ask(&registry, &repository, "").await?;
    let (_, tags) = ask(&registry, &repository, &format!("?n=3&last={}", all[4])).await?;
    ensure!(tags == all[5..8], "after {}: {tags:?}", all[4]);
    Ok(format!("after {}: {}", all[4], tags.join(", ")))
}
