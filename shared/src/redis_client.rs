//! Commands to Redis, each with an end, and none while it is away. Knows keys and tokens, and not what they are for.

use std::{
    fmt,
    path::Path,
    sync::{Arc, LazyLock, Mutex, PoisonError},
    time::Duration,
};

use prometheus_client::metrics::gauge::Gauge;
use redis::{
    AsyncConnectionConfig, Client, ConnectionInfo, FromRedisValue, IntoConnectionInfo as _, Script, TlsCertificates,
    aio::MultiplexedConnection,
};
use tokio::time::timeout;
use weir_storage::setting::ConfigError;

use crate::{breaker::Breaker, random::unique, redis_settings::Redis};

/// How often it is looked whether Redis answers, up or away.
const RETRY: Duration = Duration::from_secs(2);

/// How long a connection and what is said on it first may take. No request waits for it.
const CONNECT: Duration = Duration::from_secs(1);

/// Takes a key that is free or has the word that may be replaced, and says who has it otherwise.
static TAKE: LazyLock<Script> = LazyLock::new(|| {
    Script::new(
        "local held = redis.call('GET', KEYS[1])
         if held and held ~= ARGV[3] then return held end
         redis.call('SET', KEYS[1], ARGV[1], 'PX', ARGV[2])
         return false",
    )
});

/// Holds a key for longer, unless another token has it. One that is free was lost, with all that Redis had or by a pause of this
/// process, and is taken again.
static RENEW: LazyLock<Script> = LazyLock::new(|| {
    Script::new(
        "local held = redis.call('GET', KEYS[1])
         if held and held ~= ARGV[1] then return 0 end
         redis.call('SET', KEYS[1], ARGV[1], 'PX', ARGV[2])
         return 1",
    )
});

/// Frees a key, or leaves a word in it for a while, if this token has it.
static RELEASE: LazyLock<Script> = LazyLock::new(|| {
    Script::new(
        "if redis.call('GET', KEYS[1]) ~= ARGV[1] then return 0 end
         if ARGV[2] == '' then redis.call('DEL', KEYS[1]) else redis.call('SET', KEYS[1], ARGV[2], 'PX', ARGV[3]) end
         return 1",
    )
});

/// Why a command failed. None of them holds a secret.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RedisError {
    /// It failed lately, and is not asked until it answers.
    #[error("Redis is away")]
    Away,
    /// Connect, time-out, a connection that ended.
    #[error("Redis does not answer: {0}")]
    Unreachable(Arc<str>),
    /// It answers that this may not be: no right, a wrong password, a script that it does not run.
    #[error("Redis refuses: {0}")]
    Refused(Arc<str>),
}

/// A connection that is made anew when it fails. Cloning is cheap.
#[derive(Clone)]
pub struct RedisClient {
    inner: Arc<Inner>,
}

struct Inner {
    settings: Redis,
    breaker: Breaker,
    // Held to copy a handle.
    connection: Mutex<Option<MultiplexedConnection>>,
}

impl fmt::Debug for RedisClient {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RedisClient").field("settings", &self.inner.settings).finish_non_exhaustive()
    }
}

impl RedisClient {
    /// Connects not yet: it is away until [`RedisClient::probe`] succeeds.
    ///
    /// # Errors
    /// Files that cannot be read, or hold nothing of use.
    pub fn open(settings: &Redis) -> Result<RedisClient, ConfigError> {
        // The program installs it too; the first call wins, and both are the same.
        let _ = rustls::crypto::ring::default_provider().install_default();
        client(settings)?;
        let (settings, breaker) = (settings.clone(), Breaker::new("redis"));
        Ok(RedisClient { inner: Arc::new(Inner { settings, breaker, connection: Mutex::new(None) }) })
    }

    /// Connects, and tries out all that is asked of it under a key of its own. It is used from then on.
    ///
    /// # Errors
    /// [`RedisError::Unreachable`] of what may succeed later, and [`RedisError::Refused`].
    pub async fn probe(&self) -> Result<(), RedisError> {
        self.connect().await?;
        self.inner.breaker.rise();
        Ok(())
    }

    /// Looks again and again whether it answers, and connects anew when it does not. Never returns.
    pub(crate) async fn watch(&self) {
        loop {
            tokio::time::sleep(RETRY).await;
            // A new connection is tried out whole: a server that lost its right to write still answers a PING.
            let outcome = match self.connection().filter(|_| self.is_up()) {
                Some(mut connection) => match self.send(redis::cmd("PING").query_async::<()>(&mut connection)).await {
                    Ok(()) => continue,
                    Err(_) => self.connect().await,
                },
                None => self.connect().await,
            };
            match outcome {
                Ok(()) => self.inner.breaker.rise(),
                Err(error) => self.inner.breaker.failed(&error.to_string()),
            }
        }
    }

    pub(crate) fn show(&self, gauge: Gauge) {
        self.inner.breaker.show(gauge);
    }

    pub(crate) fn is_up(&self) -> bool {
        self.inner.breaker.is_up()
    }

    /// Takes a key for so long, if it is free or has the word `over`. `None` when it is this token's now, else what is there.
    pub(crate) async fn take(
        &self,
        key: &str,
        token: &str,
        over: &str,
        span: Duration,
    ) -> Result<Option<String>, RedisError> {
        self.through(&TAKE, key, &[token, &millis(span), over]).await
    }

    /// Holds it for so long from now; false when another token has it.
    pub(crate) async fn renew(&self, key: &str, token: &str, span: Duration) -> Result<bool, RedisError> {
        self.through(&RENEW, key, &[token, &millis(span)]).await
    }

    /// Frees it if it is this token's, and leaves `word` there for so long, if that is not empty.
    pub(crate) async fn release(&self, key: &str, token: &str, word: &str, span: Duration) -> Result<bool, RedisError> {
        self.through(&RELEASE, key, &[token, word, &millis(span)]).await
    }

    /// What is there.
    pub(crate) async fn get(&self, key: &str) -> Result<Option<String>, RedisError> {
        let mut connection = self.connection().filter(|_| self.is_up()).ok_or(RedisError::Away)?;
        let key = self.key(key);
        self.judge(self.send(redis::cmd("GET").arg(key).query_async(&mut connection)).await)
    }

    fn connection(&self) -> Option<MultiplexedConnection> {
        self.inner.connection.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn key(&self, key: &str) -> String {
        format!("{}:{key}", self.inner.settings.prefix)
    }

    async fn connect(&self) -> Result<(), RedisError> {
        // Its files are read each time, as what rotates a password does not restart this.
        let client = client(&self.inner.settings).map_err(|error| RedisError::Refused(error.to_string().into()))?;
        let config = AsyncConnectionConfig::new()
            .set_connection_timeout(Some(CONNECT))
            .set_response_timeout(Some(self.inner.settings.timeout));
        let connecting = client.get_multiplexed_async_connection_with_config(&config);
        let connection = match timeout(CONNECT, connecting).await {
            Ok(connected) => connected.map_err(|error| reason(&error))?,
            Err(_) => return Err(late(CONNECT)),
        };
        self.try_out(connection.clone()).await?;
        *self.inner.connection.lock().unwrap_or_else(PoisonError::into_inner) = Some(connection);
        Ok(())
    }

    /// Takes a key, renews it, and frees it: a user without the right to one of these is no use.
    async fn try_out(&self, mut connection: MultiplexedConnection) -> Result<(), RedisError> {
        let (key, token) = (format!("probe:{}", unique()), "probe");
        let life = millis(Duration::from_secs(10));
        let taken: Option<String> = self.eval(&TAKE, &key, &[token, &life, ""], &mut connection).await?;
        let renewed: bool = self.eval(&RENEW, &key, &[token, &life], &mut connection).await?;
        let there: Option<String> =
            self.send(redis::cmd("GET").arg(self.key(&key)).query_async(&mut connection)).await?;
        let freed: bool = self.eval(&RELEASE, &key, &[token, "", &life], &mut connection).await?;
        match taken.is_none() && renewed && there.as_deref() == Some(token) && freed {
            true => Ok(()),
            false => Err(RedisError::Refused("it does not keep what is written there for ten seconds".into())),
        }
    }

    async fn through<T: FromRedisValue>(&self, script: &Script, key: &str, args: &[&str]) -> Result<T, RedisError> {
        let mut connection = self.connection().filter(|_| self.is_up()).ok_or(RedisError::Away)?;
        self.judge(self.eval(script, key, args, &mut connection).await)
    }

    async fn eval<T: FromRedisValue>(
        &self,
        script: &Script,
        key: &str,
        args: &[&str],
        connection: &mut MultiplexedConnection,
    ) -> Result<T, RedisError> {
        let mut call = script.prepare_invoke();
        call.key(self.key(key));
        for arg in args {
            call.arg(*arg);
        }
        self.send(call.invoke_async(connection)).await
    }

    async fn send<T>(&self, command: impl Future<Output = redis::RedisResult<T>>) -> Result<T, RedisError> {
        let limit = self.inner.settings.timeout;
        match timeout(limit, command).await {
            Ok(answer) => answer.map_err(|error| reason(&error)),
            Err(_) => Err(late(limit)),
        }
    }

    fn judge<T>(&self, outcome: Result<T, RedisError>) -> Result<T, RedisError> {
        match &outcome {
            Ok(_) => self.inner.breaker.succeeded(),
            Err(RedisError::Away) => {}
            Err(error) => self.inner.breaker.failed(&error.to_string()),
        }
        outcome
    }
}

fn millis(span: Duration) -> String {
    span.as_millis().to_string()
}

fn late(limit: Duration) -> RedisError {
    RedisError::Unreachable(format!("no answer within {limit:?}").into())
}

/// What the server says, or why it was not reached.
fn reason(error: &redis::RedisError) -> RedisError {
    let text = || error.to_string().lines().next().unwrap_or_default().chars().take(200).collect::<String>();
    // A server that starts or fails over is one that does not answer yet.
    let is_passing = matches!(error.code(), Some("LOADING" | "MASTERDOWN" | "READONLY" | "TRYAGAIN" | "BUSY" | "OOM"));
    match error.code().is_some() && !is_passing || error.kind() == redis::ErrorKind::AuthenticationFailed {
        true => RedisError::Refused(text().into()),
        false => RedisError::Unreachable(text().into()),
    }
}

/// The library's client with what the files hold now.
fn client(settings: &Redis) -> Result<Client, ConfigError> {
    let url =
        |error: redis::RedisError| ConfigError::new("shared.redis.url", &settings.url, reason(&error).to_string());
    let info: ConnectionInfo = settings.url.as_str().into_connection_info().map_err(url)?;
    let mut login = info.redis_settings().clone();
    if !settings.username.is_empty() {
        login = login.set_username(&settings.username);
    }
    if let Some(bytes) = read("shared.redis.password_file", &settings.password_file)? {
        let wrong = || {
            ConfigError::new(
                "shared.redis.password_file",
                &settings.password_file,
                "write the password into it, as one line",
            )
        };
        let password = String::from_utf8(bytes).map_err(|_| wrong())?;
        let password = password.trim_end_matches(['\r', '\n']);
        if password.is_empty() || password.contains('\n') {
            return Err(wrong());
        }
        login = login.set_password(password);
    }
    let info = info.set_redis_settings(login);
    match read("shared.redis.ca_file", &settings.ca_file)? {
        None => Client::open(info).map_err(url),
        Some(pem) => {
            let certificates = TlsCertificates { client_tls: None, root_cert: Some(pem) };
            let wrong =
                |_| ConfigError::new("shared.redis.ca_file", &settings.ca_file, "name a PEM file with certificates");
            Client::build_with_tls(info, certificates).map_err(wrong)
        }
    }
}

fn read(key: &str, path: &Path) -> Result<Option<Vec<u8>>, ConfigError> {
    if path.as_os_str().is_empty() {
        return Ok(None);
    }
    let wrong = |error| ConfigError::new(key, path, format!("{error}; name a readable file"));
    std::fs::read(path).map(Some).map_err(wrong)
}
