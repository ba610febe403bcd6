//! Frames on stdin and stdout: one caller, for as long as the client keeps the pipe open.

use std::io;

use futures::FutureExt;
use rmcp::RoleServer;
use rmcp::model::{ClientJsonRpcMessage, ClientRequest, GetMeta, ProtocolVersion, RequestMetaObject};
use rmcp::service::{QuitReason, RxJsonRpcMessage, ServerInitializeError, TxJsonRpcMessage, serve_server_with_ct};
use rmcp::transport::Transport;
use rmcp::transport::async_rw::AsyncRwTransport;
use tokio::io::{Stdin, Stdout};
use tokio_util::sync::CancellationToken;

use super::handler::{Handler, REVISIONS};
use crate::client::Client;

/// Longest frame that is read: what a request's body may be over HTTP, and some for the frame around it. Longer ones are
/// skipped without being kept.
const FRAME_BYTES_MAX: usize = (1 << 20) + (16 << 10);

/// How serving came to its end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ended {
    /// The client closed its end.
    Closed,
    /// This process was asked to stop.
    Stopped,
}

/// Serves one caller on stdin and stdout until the client closes them or `stop` comes.
///
/// # Errors
/// When stdout cannot be written to before the client is known.
pub async fn serve(client: Client, stop: impl Future<Output = ()> + Send) -> io::Result<Ended> {
    let (gone, cancel) = (CancellationToken::new(), CancellationToken::new());
    let handler = Handler::of_one(client, gone.clone());
    let transport = Frames::new(gone.clone());
    let stop = stop.shared();
    let serving = async {
        match serve_server_with_ct(handler, transport, cancel.clone()).await {
            Ok(running) => Ok(match running.waiting().await {
                Ok(QuitReason::Cancelled) => Ended::Stopped,
                _ => Ended::Closed,
            }),
            Err(ServerInitializeError::ConnectionClosed(_)) => Ok(Ended::Closed),
            Err(ServerInitializeError::Cancelled) => Ok(Ended::Stopped),
            Err(error) => Err(io::Error::other(error.to_string())),
        }
    };
    let stopping = async {
        stop.await;
        // Those that wait end at once; the others may answer.
        gone.cancel();
        cancel.cancel();
        std::future::pending().await
    };
    tokio::select! {
        ended = serving => ended,
        never = stopping => never,
    }
}

/// The SDK's transport, with two things that it leaves out: whoever waits is told when the client goes, and what comes
/// before a client has said which revision it speaks, and is no request, is passed over instead of ending the service.
struct Frames {
    inner: AsyncRwTransport<RoleServer, Stdin, Stdout>,
    is_open: bool,
    gone: CancellationToken,
}

impl Frames {
    fn new(gone: CancellationToken) -> Self {
        let inner = AsyncRwTransport::new_server(tokio::io::stdin(), tokio::io::stdout());
        Self { inner: inner.with_max_line_length(FRAME_BYTES_MAX), is_open: false, gone }
    }
}

impl Transport<RoleServer> for Frames {
    type Error = io::Error;

    fn send(
        &mut self,
        item: TxJsonRpcMessage<RoleServer>,
    ) -> impl Future<Output = Result<(), Self::Error>> + Send + 'static {
        self.inner.send(item)
    }

    async fn receive(&mut self) -> Option<RxJsonRpcMessage<RoleServer>> {
        loop {
            let Some(message) = self.inner.receive().await else {
                self.gone.cancel();
                return None;
            };
            self.is_open = self.is_open || opens(&message);
            if self.is_open || matches!(message, ClientJsonRpcMessage::Request(_)) {
                return Some(message);
            }
            tracing::debug!("a message before the first request was passed over");
        }
    }

    async fn close(&mut self) -> Result<(), Self::Error> {
        self.inner.close().await
    }
}

/// Whether this settles how the client speaks: `initialize`, or a request that says its revision itself.
fn opens(message: &ClientJsonRpcMessage) -> bool {
    let ClientJsonRpcMessage::Request(request) = message else { return false };
    match &request.request {
        ClientRequest::InitializeRequest(_) => true,
        ClientRequest::PingRequest(_) | ClientRequest::DiscoverRequest(_) => false,
        other => {
            let meta: &RequestMetaObject = other.get_meta();
            meta.missing_required_keys(&ProtocolVersion::V_2026_07_28).is_empty()
                && meta.protocol_version().is_some_and(|version| REVISIONS.contains(&version))
        }
    }
}
