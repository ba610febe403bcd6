//! Listens, serves, and stops: what is in flight is finished first.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::JoinHandle;

use super::{Origin, Origins};
use crate::app::App;

/// How long requests in flight may take once the service stops.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(20);

/// A service that listens.
#[derive(Debug)]
pub struct Served {
    address: SocketAddr,
    stop: watch::Sender<bool>,
    server: JoinHandle<std::io::Result<()>>,
    background: JoinHandle<()>,
    app: Arc<App>,
}

/// Starts to serve `app` on `listen`; port 0 picks a free one.
///
/// # Errors
/// When the address cannot be listened on.
pub async fn serve(app: Arc<App>, listen: SocketAddr) -> std::io::Result<Served> {
    serve_with(app, listen, Vec::new()).await
}

/// As [`serve`]; pages of these origins may use `/mcp` from a browser.
///
/// # Errors
/// When the address cannot be listened on.
pub async fn serve_with(app: Arc<App>, listen: SocketAddr, pages: Vec<Origin>) -> std::io::Result<Served> {
    let listener = TcpListener::bind(listen).await?;
    let address = listener.local_addr()?;
    let (stop, mut stopped) = watch::channel(false);
    let router = super::router(Arc::clone(&app), Origins::new(pages, address.ip()));
    let server = tokio::spawn(async move {
        axum::serve(listener, router)
            .with_graceful_shutdown(async move {
                // An error means that the sender is gone, which is a stop as well.
                drop(stopped.wait_for(|stop| *stop).await);
            })
            .await
    });
    let background = app.spawn_background();
    Ok(Served { address, stop, server, background, app })
}

impl Served {
    /// The address it listens on.
    #[must_use]
    pub const fn address(&self) -> SocketAddr {
        self.address
    }

    /// Its URL.
    #[must_use]
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// The service behind it.
    #[must_use]
    pub const fn app(&self) -> &Arc<App> {
        &self.app
    }

    /// Takes no new connections, finishes what is in flight, closes the store.
    pub async fn stop(self) {
        self.stop.send_replace(true);
        self.app.begin_stop();
        if tokio::time::timeout(DRAIN_TIMEOUT, self.server).await.is_err() {
            tracing::warn!(seconds = DRAIN_TIMEOUT.as_secs(), "requests in flight did not end in time");
        }
        self.background.abort();
        self.app.close().await;
    }
}
