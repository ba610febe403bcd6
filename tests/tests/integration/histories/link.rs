//! A link between two programs that the test can cut: a TCP proxy.

use std::net::SocketAddr;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinHandle;

/// How the link is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Quality {
    /// Nothing that is answered comes through.
    is_deaf: bool,
    /// Connections of before are closed when this moves.
    cut: u64,
}

pub(crate) struct Link {
    pub(crate) address: SocketAddr,
    quality: watch::Sender<Quality>,
    accepting: JoinHandle<()>,
}

impl Link {
    /// A link to an address.
    pub(crate) async fn to(target: SocketAddr) -> Self {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        let address = listener.local_addr().unwrap();
        let quality = watch::Sender::new(Quality { is_deaf: false, cut: 0 });
        let seen = quality.subscribe();
        let accepting = tokio::spawn(async move {
            while let Ok((near, _)) = listener.accept().await {
                tokio::spawn(carry(near, target, seen.clone()));
            }
        });
        Self { address, quality, accepting }
    }

    /// From now on what is sent arrives, and no answer does.
    pub(crate) fn deafen(&self) {
        self.quality.send_modify(|quality| quality.is_deaf = true);
    }

    /// Closes all connections; new ones are whole.
    pub(crate) fn cut(&self) {
        self.quality.send_modify(|quality| *quality = Quality { is_deaf: false, cut: quality.cut + 1 });
    }
}

impl Drop for Link {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

async fn carry(mut near: TcpStream, target: SocketAddr, mut quality: watch::Receiver<Quality>) {
    let Ok(mut far) = TcpStream::connect(target).await else { return };
    drop((near.set_nodelay(true), far.set_nodelay(true)));
    let cut = quality.borrow_and_update().cut;
    let ((mut near_in, mut near_out), (mut far_in, mut far_out)) = (near.split(), far.split());
    let (mut asked, mut told) = (vec![0; 16_384], vec![0; 16_384]);
    loop {
        tokio::select! {
            changed = quality.changed() => {
                if changed.is_err() || quality.borrow_and_update().cut != cut {
                    return;
                }
            }
            read = near_in.read(&mut asked) => match read {
                Ok(count) if count > 0 && far_out.write_all(&asked[..count]).await.is_ok() => {}
                // Half of a connection may be closed first.
                Ok(0) if far_out.shutdown().await.is_ok() => return drain(&mut far_in, &mut near_out).await,
                _ => return,
            },
            read = far_in.read(&mut told) => match read {
                Ok(count) if count > 0 => {
                    let is_deaf = quality.borrow().is_deaf;
                    if !is_deaf && near_out.write_all(&told[..count]).await.is_err() {
                        return;
                    }
                }
                _ => return,
            },
        }
    }
}

async fn drain(from: &mut (impl AsyncReadExt + Unpin), to: &mut (impl AsyncWriteExt + Unpin)) {
    drop(tokio::io::copy(from, to).await);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_link_carries_is_deafened_and_is_cut() {
    let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
    let link = Link::to(listener.local_addr().unwrap()).await;
    let mut near = TcpStream::connect(link.address).await.unwrap();
    let (mut far, _) = listener.accept().await.unwrap();
    let mut bytes = [0; 4];
    near.write_all(b"ping").await.unwrap();
    far.read_exact(&mut bytes).await.unwrap();
    far.write_all(b"pong").await.unwrap();
    near.read_exact(&mut bytes).await.unwrap();
    assert_eq!(&bytes, b"pong");
    link.deafen();
    near.write_all(b"more").await.unwrap();
    far.read_exact(&mut bytes).await.unwrap();
    assert_eq!(&bytes, b"more");
    far.write_all(b"lost").await.unwrap();
    tokio::time::sleep(std::time::Duration::from_millis(50)).await;
    link.cut();
    assert_eq!(near.read(&mut bytes).await.unwrap_or(0), 0);
    let mut again = TcpStream::connect(link.address).await.unwrap();
    let (mut far, _) = listener.accept().await.unwrap();
    far.write_all(b"back").await.unwrap();
    again.read_exact(&mut bytes).await.unwrap();
    assert_eq!(&bytes, b"back");
}
