//! Amazon ECR: the credentials of this machine or workload, and the authorization token that they are good for.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use base64::{Engine as _, prelude::BASE64_STANDARD};
use reqwest::Method;
use ring::{digest, hmac};
use url::Url;

use super::{
    super::login::{Login, usable},
    http::{Answer, Services, variable},
};
use crate::upstream::settings::text_of;

/// How long a token is used of which Amazon does not say how long it is good: they live for 12 h.
const LIFETIME: Duration = Duration::from_secs(3600);

/// An access key, with the session that it belongs to when it is temporary.
struct AccessKey {
    id: String,
    secret: String,
    session: Option<String>,
}

/// An API that signed requests go to.
struct Service<'a> {
    /// As it is signed.
    name: &'a str,
    region: &'a str,
    /// `X-Amz-Target`.
    target: &'a str,
}

/// Of a private registry, in the region that its host names.
///
/// # Errors
/// Which service said what, or which variable is missing.
pub(super) async fn private(services: &Services, registry: &Url) -> Result<(Login, Duration), String> {
    let host = registry.host_str().unwrap_or_default();
    let of_host = host.split_once(".dkr.ecr").and_then(|(_, rest)| rest.split('.').nth(1)).map(ToOwned::to_owned);
    let region = of_host.or_else(region).ok_or("set AWS_REGION: the URL of the registry names no region")?;
    let suffix = if host.ends_with(".cn") { ".cn" } else { "" };
    let url =
        variable("AWS_ENDPOINT_URL_ECR").unwrap_or_else(|| format!("https://api.ecr.{region}.amazonaws.com{suffix}"));
    let target = "AmazonEC2ContainerRegistry_V20150921.GetAuthorizationToken";
    authorization(services, &url, &Service { name: "ecr", region: &region, target }).await
}

/// Of public.ecr.aws.
///
/// # Errors
/// As [`private`].
pub(super) async fn public(services: &Services) -> Result<(Login, Duration), String> {
    let url = variable("AWS_ENDPOINT_URL_ECR_PUBLIC");
    let url = url.unwrap_or_else(|| "https://api.ecr-public.us-east-1.amazonaws.com".to_owned());
    let target = "SpencerFrontendService.GetAuthorizationToken";
    authorization(services, &url, &Service { name: "ecr-public", region: "us-east-1", target }).await
}

fn region() -> Option<String> {
    variable("AWS_REGION").or_else(|| variable("AWS_DEFAULT_REGION"))
}

async fn authorization(services: &Services, url: &str, service: &Service<'_>) -> Result<(Login, Duration), String> {
    let key = access_key(services).await?;
    let url = Url::parse(url).map_err(|error| format!("{url}: {error}"))?;
    let headers = signed(&url, service, &key, "{}", SystemTime::now());
    let answer = services.post(url.as_str(), &headers, "{}".to_owned()).await?.json()?;
    // A list for private registries, an object for the public one.
    let data = &answer["authorizationData"];
    let data = data.get(0).unwrap_or(data);
    let pair = data["authorizationToken"].as_str().and_then(|token| BASE64_STANDARD.decode(token).ok());
    let pair = pair.and_then(|pair| String::from_utf8(pair).ok());
    let (user, password) =
        pair.as_deref().and_then(|pair| pair.split_once(':')).ok_or("GetAuthorizationToken gives no token")?;
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
    // A cast of a float saturates.
    let until = data["expiresAt"].as_f64().map(|seconds| seconds as u64);
    Ok((Login::new(user, password), until.map_or(LIFETIME, |until| usable(until.saturating_sub(now)))))
}

/// In the order of Amazon's own tools: the environment, workload identity, a container's role, the machine's role.
async fn access_key(services: &Services) -> Result<AccessKey, String> {
    if let (Some(id), Some(secret)) = (variable("AWS_ACCESS_KEY_ID"), variable("AWS_SECRET_ACCESS_KEY")) {
        return Ok(AccessKey { id, secret, session: variable("AWS_SESSION_TOKEN") });
    }
    if let (Some(token), Some(role)) = (variable("AWS_WEB_IDENTITY_TOKEN_FILE"), variable("AWS_ROLE_ARN")) {
        return of_web_identity(services, &text_of(&token).await?, &role).await;
    }
    let full = variable("AWS_CONTAINER_CREDENTIALS_FULL_URI");
    let relative = variable("AWS_CONTAINER_CREDENTIALS_RELATIVE_URI");
    if let Some(url) = full.or_else(|| relative.map(|path| format!("http://169.254.170.2{path}"))) {
        let token = match variable("AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE") {
            Some(path) => Some(text_of(&path).await?),
            None => variable("AWS_CONTAINER_AUTHORIZATION_TOKEN"),
        };
        let headers: Vec<_> = token.iter().map(|token| ("authorization", token.as_str())).collect();
        return of_role(&services.metadata(Method::GET, &url, &headers).await?);
    }
    of_machine(services).await
}

/// `AssumeRoleWithWebIdentity` of the Security Token Service.
async fn of_web_identity(services: &Services, token: &str, role: &str) -> Result<AccessKey, String> {
    let host = region().map_or_else(|| "sts.amazonaws.com".to_owned(), |region| format!("sts.{region}.amazonaws.com"));
    let url = variable("AWS_ENDPOINT_URL_STS").unwrap_or_else(|| format!("https://{host}/"));
    let session = variable("AWS_ROLE_SESSION_NAME").unwrap_or_else(|| "weir".to_owned());
    let form = [
        ("Action", "AssumeRoleWithWebIdentity"),
        ("Version", "2011-06-15"),
        ("RoleArn", role),
        ("RoleSessionName", &session),
        ("WebIdentityToken", token),
    ];
    let answer = services.form(&url, &form).await?;
    let element = |name: &str| {
        let (_, rest) = answer.body.split_once(&format!("<{name}>"))?;
        Some(rest.split_once(&format!("</{name}>"))?.0.trim().to_owned())
    };
    let key = element("AccessKeyId").zip(element("SecretAccessKey"));
    let (id, secret) = key.ok_or("AssumeRoleWithWebIdentity gives no access key")?;
    Ok(AccessKey { id, secret, session: element("SessionToken") })
}

/// The instance metadata service, version 2.
async fn of_machine(services: &Services) -> Result<AccessKey, String> {
    let base = variable("AWS_EC2_METADATA_SERVICE_ENDPOINT");
    let base = base.unwrap_or_else(|| "http://169.254.169.254".to_owned());
    let base = format!("{}/latest", base.trim_end_matches('/'));
    let ttl = [("x-aws-ec2-metadata-token-ttl-seconds", "60")];
    let session = services.metadata(Method::PUT, &format!("{base}/api/token"), &ttl).await?.body;
    let headers = [("x-aws-ec2-metadata-token", session.trim())];
    let roles = format!("{base}/meta-data/iam/security-credentials/");
    let role = services.metadata(Method::GET, &roles, &headers).await?.body;
    let role = role.lines().next().unwrap_or_default().trim();
    of_role(&services.metadata(Method::GET, &format!("{roles}{role}"), &headers).await?)
}

fn of_role(answer: &Answer) -> Result<AccessKey, String> {
    let session = Some(answer.text("Token")?);
    Ok(AccessKey { id: answer.text("AccessKeyId")?, secret: answer.text("SecretAccessKey")?, session })
}

/// The headers of a POST to `/`, signed (AWS Signature Version 4).
fn signed(
    url: &Url,
    service: &Service<'_>,
    key: &AccessKey,
    body: &str,
    now: SystemTime,
) -> Vec<(&'static str, String)> {
    let time = humantime::format_rfc3339_seconds(now).to_string().replace(['-', ':'], "");
    let host = url.host_str().unwrap_or_default();
    let host = url.port().map_or_else(|| host.to_owned(), |port| format!("{host}:{port}"));
    // In the order of their names, as they are signed.
    let mut headers = vec![("content-type", "application/x-amz-json-1.1".to_owned()), ("host", host)];
    headers.push(("x-amz-date", time.clone()));
    headers.extend(key.session.clone().map(|session| ("x-amz-security-token", session)));
    headers.push(("x-amz-target", service.target.to_owned()));
    let authorization = authorize("POST", url.path(), &headers, body, (service.region, service.name), key, &time);
    headers.push(("authorization", authorization));
    headers
}

fn authorize(
    method: &str,
    path: &str,
    headers: &[(&'static str, String)],
    body: &str,
    (region, service): (&str, &str),
    key: &AccessKey,
    time: &str,
) -> String {
    let names = headers.iter().map(|(name, _)| *name).collect::<Vec<_>>().join(";");
    let lines: String = headers.iter().map(|(name, value)| format!("{name}:{value}\n")).collect();
    let request = format!("{method}\n{path}\n\n{lines}\n{names}\n{}", sha256(body));
    let day = time.split('T').next().unwrap_or_default();
    let scope = format!("{day}/{region}/{service}/aws4_request");
    let text = format!("AWS4-HMAC-SHA256\n{time}\n{scope}\n{}", sha256(&request));
    let keyed = |secret: &[u8], text: &str| hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, secret), text.as_bytes());
    let mut signing = keyed(format!("AWS4{}", key.secret).as_bytes(), day);
    for part in [region, service, "aws4_request"] {
        signing = keyed(signing.as_ref(), part);
    }
    let signature = hex(keyed(signing.as_ref(), &text).as_ref());
    format!("AWS4-HMAC-SHA256 Credential={}/{scope}, SignedHeaders={names}, Signature={signature}", key.id)
}

fn sha256(text: &str) -> String {
    hex(digest::digest(&digest::SHA256, text.as_bytes()).as_ref())
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `get-vanilla` and `post-vanilla` of Amazon's test suite for Signature Version 4.
    #[test]
    fn requests_are_signed_as_amazons_test_suite_says() {
        let key = AccessKey {
            id: "AKIDEXAMPLE".to_owned(),
            secret: "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY".to_owned(),
            session: None,
        };
        let time = "20150830T123600Z";
        let headers = [("host", "example.amazonaws.com".to_owned()), ("x-amz-date", time.to_owned())];
        for (method, signature) in [
            ("GET", "5fa00fa31553b73ebf1942676e86291e8372ff2a2260956d9b8aae1d763fbf31"),
            ("POST", "5da7c1a2acd57cee7505fc6676e4e544621c30862966e37dddb68e92efbe5d6b"),
        ] {
            let authorization = authorize(method, "/", &headers, "", ("us-east-1", "service"), &key, time);
            assert_eq!(
                authorization,
                format!(
                    "AWS4-HMAC-SHA256 Credential=AKIDEXAMPLE/20150830/us-east-1/service/aws4_request, \
                     SignedHeaders=host;x-amz-date, Signature={signature}"
                )
            );
        }
    }
}
