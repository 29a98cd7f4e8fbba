//! Programs that speak Docker's credential helper protocol (docker/docker-credential-helpers).

use std::{
    process::{ExitStatus, Stdio},
    time::Duration,
};

use serde::Deserialize;
use tokio::{
    io::{AsyncRead, AsyncReadExt as _, AsyncWriteExt as _},
    process::Command,
};
use url::Url;

use super::login::{Login, lifetime};

/// How long a command may take, and how many bytes it may print.
const TIMEOUT: Duration = Duration::from_secs(10);
const MAX_OUTPUT: u64 = 64 * 1024;
/// How long a credential is used that does not say how long it is good.
const LIFETIME: Duration = Duration::from_secs(300);
/// The user name by which a helper says that its secret is an identity token.
const IDENTITY_TOKEN: &str = "<token>";

/// The registry as docker names it to a helper.
fn server(registry: &Url) -> String {
    match (registry.host_str().unwrap_or_default(), registry.port()) {
        (host, _) if host == "docker.io" || host.ends_with(".docker.io") => "https://index.docker.io/v1/".to_owned(),
        (host, Some(port)) => format!("{host}:{port}"),
        (host, None) => host.to_owned(),
    }
}

/// What the command gives for a registry: the registry on its standard input, JSON on its standard output.
///
/// # Errors
/// What went wrong, behind the name of the command; holds no secret.
pub(super) async fn run(command: &[String], registry: &Url) -> Result<(Login, Duration), String> {
    #[derive(Deserialize)]
    #[serde(rename_all = "PascalCase")]
    struct Answer {
        username: String,
        secret: String,
    }
    let (program, arguments) = command.split_first().ok_or("is empty")?;
    let (status, output, complaint) = tokio::time::timeout(TIMEOUT, exchange(program, arguments, &server(registry)))
        .await
        .map_err(|_| format!("did not end within {} s", TIMEOUT.as_secs()))?
        .map_err(|error| format!("could not be run: {error}"))?;
    if !status.success() {
        // By the protocol it says why on its standard output.
        let said = [&complaint, &output].map(|text| String::from_utf8_lossy(text).trim().to_owned());
        let said = said.into_iter().find(|text| !text.is_empty() && !text.starts_with('{')).unwrap_or_default();
        let said: String = said.lines().next().unwrap_or("it says nothing").chars().take(200).collect();
        return Err(format!("failed ({status}): {said}"));
    }
    if output.len() as u64 > MAX_OUTPUT {
        return Err(format!("printed more than {MAX_OUTPUT} bytes"));
    }
    let answer: Answer =
        serde_json::from_slice(&output).map_err(|_| "printed no JSON with Username and Secret".to_owned())?;
    if answer.username.is_empty() || answer.secret.is_empty() {
        return Err("gave no user or no secret".to_owned());
    }
    let lifetime = lifetime(&answer.secret).unwrap_or(LIFETIME);
    let identity_token = answer.username == IDENTITY_TOKEN;
    Ok((Login { identity_token, ..Login::new(&answer.username, &answer.secret) }, lifetime))
}

async fn exchange(
    program: &str,
    arguments: &[String],
    server: &str,
) -> std::io::Result<(ExitStatus, Vec<u8>, Vec<u8>)> {
    async fn bounded(pipe: Option<impl AsyncRead + Unpin>) -> std::io::Result<Vec<u8>> {
        let mut bytes = Vec::new();
        if let Some(pipe) = pipe {
            pipe.take(MAX_OUTPUT + 1).read_to_end(&mut bytes).await?;
        }
        Ok(bytes)
    }
    let mut child = Command::new(program)
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()?;
    if let Some(mut input) = child.stdin.take() {
        // A helper that needs no question may have closed it.
        let _ = input.write_all(format!("{server}\n").as_bytes()).await;
    }
    let (output, complaint) = tokio::try_join!(bounded(child.stdout.take()), bounded(child.stderr.take()))?;
    Ok((child.wait().await?, output, complaint))
}
