//! Registries of clouds, whose own services give the credential: each service is played on loopback as its documentation says.

use std::fs;

use base64::{Engine as _, prelude::*};

use super::{
    ACCOUNT, INDEX, OCI_INDEX, TOKEN_HEADER, Weir, digest,
    server::{Asked, Server, answer},
    token,
};

/// A field of a form.
fn field(asked: &Asked, name: &str) -> String {
    let mut pairs = url::form_urlencoded::parse(asked.body.as_bytes());
    pairs.find(|(known, _)| known == name).map(|(_, value)| value.into_owned()).unwrap_or_default()
}

fn index() -> Vec<u8> {
    answer(200, &[OCI_INDEX, ("Docker-Content-Digest", &digest(INDEX))], INDEX)
}

fn basic(pair: &str) -> String {
    format!("Basic {}", BASE64_STANDARD.encode(pair))
}

/// A pull as an account with this provider, twice, and a third that finds the cloud gone.
fn pulls(server: &Server, provider: &str, environment: &[(&str, &str)], asked_for: &str) {
    let keys = format!("accounts = [{{ username = \"cloud\", provider = \"{provider}\" }}]\n{ACCOUNT}");
    let environment: Vec<_> = environment.iter().copied().chain([TOKEN_HEADER]).collect();
    let weir = Weir::start(&server.url(), &keys, &environment);
    let before = server.asked().iter().filter(|asked| asked.target.contains(asked_for)).count();
    for name in [format!("team/of-{provider}/a"), format!("team/of-{provider}/b")] {
        let (status, body) = weir.get_as_ci(&format!("/v2/{name}/manifests/v1"));
        assert_eq!(status, 200, "{provider}: {body} {:#?}", server.asked());
    }
    let after = server.asked().iter().filter(|asked| asked.target.contains(asked_for)).count();
    assert_eq!(after - before, 1, "{provider}: the cloud is asked once for a credential that is good for long");
    assert_eq!(weir.get("/v2/team/a/manifests/v1").0, 404, "{provider}: private to all others");
    let nowhere: Vec<_> = environment
        .iter()
        .map(|(name, value)| {
            (
                *name,
                if value.starts_with("http") || value.contains("127.0.0.1") {
                    value.replace("127.0.0.1", "127.0.0.9")
                } else {
                    (*value).to_owned()
                },
            )
        })
        .collect();
    let nowhere: Vec<_> = nowhere.iter().map(|(name, value)| (*name, value.as_str())).collect();
    let weir = Weir::start(&server.url(), &keys, &nowhere);
    let (status, body) = weir.get_as_ci("/v2/team/a/manifests/v1");
    assert!(status == 503 && body.contains("cloud"), "{provider}: a cloud that is gone is no absence: {status} {body}");
}

/// Google Cloud, "About VM metadata"; "Configure authentication to Artifact Registry for Docker" (`oauth2accesstoken`).
#[test]
fn google_gives_the_access_token_of_the_metadata_server() {
    let server = Server::start(|asked, url| match asked.path() {
        "/computeMetadata/v1/instance/service-accounts/default/token" => match asked.header("metadata-flavor") {
            Some("Google") => answer(200, &[], r#"{"access_token":"ya29.x","expires_in":3599,"token_type":"Bearer"}"#),
            _ => answer(403, &[], ""),
        },
        "/v2/token" if asked.header("authorization") == Some(&basic("oauth2accesstoken:ya29.x")) => {
            answer(200, &[], r#"{"token":"good","expires_in":3600}"#)
        }
        "/v2/token" => answer(403, &[], "{}"),
        _ if token(asked) == "good" => index(),
        _ => answer(401, &[("WWW-Authenticate", &format!(r#"Bearer realm="{url}/v2/token",service="r""#))], "{}"),
    });
    let host = server.url().replace("http://", "");
    pulls(&server, "google", &[("GCE_METADATA_HOST", &host)], "computeMetadata");
}

/// Azure/acr, docs/AAD-OAuth.md; azure-workload-identity; "How to use managed identities" (instance metadata service).
#[test]
fn azure_exchanges_the_token_of_an_identity_for_one_of_the_registry() {
    // {"exp":4102444800}
    const REFRESH: &str = "e30.eyJleHAiOjQxMDI0NDQ4MDB9.c2ln";
    let server = Server::start(|asked, url| {
        let good = match asked.path() {
            "/metadata/identity/oauth2/token" => {
                let good = asked.header("metadata") == Some("true") && asked.target.contains("api-version=2018-02-01");
                return match good && asked.target.contains("resource=https%3A%2F%2Fmanagement.azure.com%2F") {
                    true => answer(200, &[], r#"{"access_token":"entra","expires_in":"3599"}"#),
                    false => answer(400, &[], "{}"),
                };
            }
            "/tenant-1/oauth2/v2.0/token" => {
                let good = field(asked, "grant_type") == "client_credentials"
                    && field(asked, "client_id") == "client-1"
                    && field(asked, "client_assertion") == "signed by the cluster"
                    && field(asked, "client_assertion_type").ends_with(":jwt-bearer");
                return answer(if good { 200 } else { 401 }, &[], r#"{"access_token":"entra","expires_in":3599}"#);
            }
            "/oauth2/exchange" => {
                let good = field(asked, "grant_type") == "access_token" && field(asked, "access_token") == "entra";
                let good = good && field(asked, "service") == "127.0.0.1";
                return answer(if good { 200 } else { 401 }, &[], format!(r#"{{"refresh_token":"{REFRESH}"}}"#));
            }
            "/oauth2/token" if asked.method == "POST" => {
                field(asked, "grant_type") == "refresh_token" && field(asked, "refresh_token") == REFRESH
            }
            "/oauth2/token" => return answer(401, &[], "{}"),
            _ if token(asked) == "good" => return index(),
            _ => {
                let challenge = format!(r#"Bearer realm="{url}/oauth2/token",service="acme.azurecr.io""#);
                return answer(401, &[("WWW-Authenticate", &challenge)], "{}");
            }
        };
        answer(if good { 200 } else { 400 }, &[], r#"{"access_token":"good"}"#)
    });
    let url = server.url();
    pulls(&server, "azure", &[("AZURE_POD_IDENTITY_AUTHORITY_HOST", &url)], "/metadata/");
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("token");
    fs::write(&file, "signed by the cluster\n").unwrap();
    let workload = [
        ("AZURE_FEDERATED_TOKEN_FILE", file.to_str().unwrap()),
        ("AZURE_TENANT_ID", "tenant-1"),
        ("AZURE_CLIENT_ID", "client-1"),
        ("AZURE_AUTHORITY_HOST", &url),
    ];
    pulls(&server, "azure", &workload, "/tenant-1/");
}

/// Amazon ECR API, `GetAuthorizationToken`; IAM roles for service accounts, for containers and for machines (IMDSv2).
#[test]
fn amazon_gives_an_authorization_token_to_the_role_of_a_machine_a_container_or_a_workload() {
    const ROLE: &str =
        r#"{"AccessKeyId":"ASIA1","SecretAccessKey":"k","Token":"session","Expiration":"2100-01-01T00:00:00Z"}"#;
    let server = Server::start(|asked, url| {
        let imds = asked.header("x-aws-ec2-metadata-token") == Some("imds");
        match (asked.method.as_str(), asked.path()) {
            ("PUT", "/latest/api/token") => {
                let asks = asked.header("x-aws-ec2-metadata-token-ttl-seconds").is_some();
                return answer(if asks { 200 } else { 400 }, &[], "imds");
            }
            ("GET", "/latest/meta-data/iam/security-credentials/") if imds => return answer(200, &[], "the-role\n"),
            ("GET", "/latest/meta-data/iam/security-credentials/the-role") if imds => return answer(200, &[], ROLE),
            ("GET", "/container") if asked.header("authorization") == Some("for the container") => {
                return answer(200, &[], ROLE);
            }
            ("POST", "/sts") => {
                let good = field(asked, "Action") == "AssumeRoleWithWebIdentity"
                    && field(asked, "RoleArn") == "arn:aws:iam::1:role/r"
                    && field(asked, "WebIdentityToken") == "signed by the cluster";
                let body = "<AssumeRoleWithWebIdentityResponse><Credentials><AccessKeyId>ASIA1</AccessKeyId>\
                            <SecretAccessKey>k</SecretAccessKey><SessionToken>session</SessionToken></Credentials>\
                            </AssumeRoleWithWebIdentityResponse>";
                return answer(if good { 200 } else { 403 }, &[], body);
            }
            ("POST", "/ecr" | "/ecr-public") => {
                let authorization = asked.header("authorization").unwrap_or_default();
                let (service, region, target) = match asked.path() {
                    "/ecr" => ("ecr", "eu-west-1", "AmazonEC2ContainerRegistry_V20150921.GetAuthorizationToken"),
                    _ => ("ecr-public", "us-east-1", "SpencerFrontendService.GetAuthorizationToken"),
                };
                let temporary = asked.header("x-amz-security-token") == Some("session");
                let key = if temporary { "ASIA1" } else { "AKIA1" };
                let good = authorization.starts_with(&format!("AWS4-HMAC-SHA256 Credential={key}/"))
                    && authorization
                        .contains(&format!("/{region}/{service}/aws4_request, SignedHeaders=content-type;host;"))
                    && asked.header("x-amz-target") == Some(target)
                    && asked.header("content-type") == Some("application/x-amz-json-1.1")
                    && asked.body == "{}";
                if !good {
                    return answer(400, &[], "{}");
                }
                let data = format!(
                    r#"{{"authorizationToken":"{}","expiresAt":4102444800.5}}"#,
                    BASE64_STANDARD.encode("AWS:pw")
                );
                let data = if service == "ecr" { format!("[{data}]") } else { data };
                return answer(200, &[], format!(r#"{{"authorizationData":{data}}}"#));
            }
            (_, "/token") if asked.header("authorization") == Some(&basic("AWS:pw")) => {
                return answer(200, &[], r#"{"token":"good"}"#);
            }
            (_, "/token") => return answer(401, &[], "{}"),
            _ => {}
        }
        match asked.header("authorization") {
            Some(sent) if sent == basic("AWS:pw") || token(asked) == "good" => index(),
            Some(_) => answer(403, &[], "{}"),
            None if asked.path().contains("public") => {
                answer(401, &[("WWW-Authenticate", &format!(r#"Bearer realm="{url}/token",scope="aws""#))], "{}")
            }
            None => answer(401, &[("WWW-Authenticate", r#"Basic realm="ecr",service="ecr.amazonaws.com""#)], "{}"),
        }
    });
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("token");
    fs::write(&file, "signed by the cluster\n").unwrap();
    let url = server.url();
    let (ecr, sts, container) = (format!("{url}/ecr"), format!("{url}/sts"), format!("{url}/container"));
    let ecr = [("AWS_ENDPOINT_URL_ECR", ecr.as_str()), ("AWS_REGION", "eu-west-1")];
    for of in [
        &[("AWS_ACCESS_KEY_ID", "AKIA1"), ("AWS_SECRET_ACCESS_KEY", "k")][..],
        &[("AWS_EC2_METADATA_SERVICE_ENDPOINT", url.as_str())],
        &[
            ("AWS_CONTAINER_CREDENTIALS_FULL_URI", container.as_str()),
            ("AWS_CONTAINER_AUTHORIZATION_TOKEN", "for the container"),
        ],
        &[
            ("AWS_WEB_IDENTITY_TOKEN_FILE", file.to_str().unwrap()),
            ("AWS_ROLE_ARN", "arn:aws:iam::1:role/r"),
            ("AWS_ENDPOINT_URL_STS", sts.as_str()),
        ],
    ] {
        pulls(&server, "ecr", &[&ecr[..], of].concat(), "/ecr");
    }
    let public = format!("{url}/ecr-public");
    let environment = [
        ("AWS_ENDPOINT_URL_ECR_PUBLIC", public.as_str()),
        ("AWS_ACCESS_KEY_ID", "AKIA1"),
        ("AWS_SECRET_ACCESS_KEY", "k"),
    ];
    pulls(&server, "ecr-public", &environment, "/ecr-public");
}
