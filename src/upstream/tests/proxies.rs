//! The way out through a proxy.

use super::{server::answer, *};

#[tokio::test]
async fn everything_goes_through_the_proxy_and_a_name_that_only_it_can_resolve_is_found() {
    let proxy = Server::start(|asked| match asked.header("proxy-authorization") {
        // me:canary
        Some("Basic bWU6Y2FuYXJ5") if asked.target.starts_with("http://registry.invalid/v2/a/b/") => {
            match asked.target.contains("blobs") {
                true => answer(200, &[], "0123456789"),
                false => answer(200, &[OCI_INDEX], INDEX),
            }
        }
        _ => answer(407, &[("Proxy-Authenticate", "Basic")], ""),
    })
    .await;
    let host = proxy.url().replace("http://", "");
    let through = |user: &str| {
        let settings = Settings { proxy: format!("http://{user}{host}"), ..settings("http://registry.invalid") };
        Upstream::new(settings, Ledger::unkept()).unwrap()
    };
    let upstream = through("me:canary@");
    upstream.head_manifest(&anonymous(), &name("a/b"), &tag("latest")).await.unwrap();
    get(&upstream, &tag("latest")).await.unwrap();
    let body = upstream.get_blob(&anonymous(), &name("a/b"), &digest("x"), 0, None).await.unwrap();
    assert_eq!((body.size, proxy.asked().len()), (Some(10), 3));
    let refused = through("").head_manifest(&anonymous(), &name("a/b"), &tag("latest")).await;
    assert!(refused.is_err(), "{refused:?}");
}

#[tokio::test]
async fn tls_goes_through_a_tunnel_and_nothing_around_it() {
    let proxy = Server::start(|_| answer(403, &[], "")).await;
    let settings = Settings { proxy: proxy.url(), ..settings("https://registry.invalid") };
    let upstream = Upstream::new(settings, Ledger::unkept()).unwrap();
    let failed = upstream.head_manifest(&anonymous(), &name("a/b"), &tag("latest")).await.unwrap_err().to_string();
    let asked = proxy.asked();
    assert_eq!((asked[0].method.as_str(), asked[0].target.as_str()), ("CONNECT", "registry.invalid:443"));
    assert!(failed.contains(&proxy.url()), "{failed}");
}

#[tokio::test]
async fn socks_reaches_what_its_server_reaches() {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    let registry = Server::start(|_| answer(200, &[OCI_INDEX], INDEX)).await;
    let port: u16 = registry.url().rsplit_once(':').unwrap().1.parse().unwrap();
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let proxy = format!("socks5h://{}", listener.local_addr().unwrap());
    // RFC 1928: a greeting, a request by name, and then bytes both ways.
    tokio::spawn(async move {
        while let Ok((mut client, _)) = listener.accept().await {
            let mut greeting = [0; 2];
            client.read_exact(&mut greeting).await.unwrap();
            client.read_exact(&mut vec![0; greeting[1].into()]).await.unwrap();
            client.write_all(&[5, 0]).await.unwrap();
            let mut request = [0; 5];
            client.read_exact(&mut request).await.unwrap();
            assert_eq!(request[..4], [5, 1, 0, 3]);
            let mut name = vec![0; usize::from(request[4]) + 2];
            client.read_exact(&mut name).await.unwrap();
            assert!(name.starts_with(b"registry.invalid"));
            client.write_all(&[5, 0, 0, 1, 0, 0, 0, 0, 0, 0]).await.unwrap();
            let mut server = tokio::net::TcpStream::connect(("127.0.0.1", port)).await.unwrap();
            tokio::spawn(async move { tokio::io::copy_bidirectional(&mut client, &mut server).await });
        }
    });
    let settings = Settings { proxy, ..settings("http://registry.invalid") };
    let upstream = Upstream::new(settings, Ledger::unkept()).unwrap();
    upstream.head_manifest(&anonymous(), &name("a/b"), &tag("latest")).await.unwrap();
    assert_eq!(registry.asked().len(), 1);
}
