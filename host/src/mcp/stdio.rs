//! MCP over stdin and stdout. Stdout holds frames and nothing else.

use rmcp::ServiceExt;
use rmcp::service::QuitReason;
use rmcp::transport::async_rw::AsyncRwTransport;

use super::calls::Calls;
use super::handler::{Handler, Way};
use crate::client::Client;

/// Longest frame that is read: as long as the longest body over HTTP, and room for what is around it.
const FRAME_BYTES_MAX: usize = (1 << 20) + (64 << 10);

/// Why serving ended otherwise than by the end of the input.
#[derive(Debug, thiserror::Error)]
pub enum StdioError {
    /// The client did not begin as the protocol asks.
    #[error("the client did not begin a session: {0}")]
    Handshake(String),
    /// The service itself broke.
    #[error("serving broke: {0}")]
    Broken(String),
}

/// Serves MCP on this process' stdin and stdout until the input ends.
///
/// # Errors
/// When the client never begins a session, or serving breaks.
pub async fn serve_stdio(client: Client) -> Result<(), StdioError> {
    let handler = Handler { way: Way::Own(client), calls: Calls::default() };
    let (stdin, stdout) = rmcp::transport::io::stdio();
    let transport = AsyncRwTransport::new_server(stdin, stdout).with_max_line_length(FRAME_BYTES_MAX);
    let running = match handler.serve(transport).await {
        Ok(running) => running,
        // Nothing was said before the input ended.
        Err(rmcp::service::ServerInitializeError::ConnectionClosed(_)) => return Ok(()),
        Err(error) => return Err(StdioError::Handshake(error.to_string())),
    };
    match running.waiting().await {
        Ok(QuitReason::Closed | QuitReason::Cancelled) => Ok(()),
        Ok(reason) => Err(StdioError::Broken(format!("{reason:?}"))),
        Err(error) => Err(StdioError::Broken(error.to_string())),
    }
}
