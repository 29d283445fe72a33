//! A proxy that can cut the connections to a database, or make them silent. A silent connection stays open but passes no data.

use std::{
    net::SocketAddr,
    path::{Path, PathBuf},
};

use tokio::{
    io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _},
    net::{TcpListener, TcpStream, UnixStream},
    sync::watch,
};

/// A proxy, which ends when this value is dropped.
pub struct Proxy {
    address: SocketAddr,
    /// Incremented with each cut.
    cuts: watch::Sender<u64>,
    silent: watch::Sender<bool>,
}

impl Proxy {
    /// Creates a proxy to the socket of a server.
    pub async fn to(socket: PathBuf) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("its address");
        let (cuts, cut) = watch::channel(0);
        let (silent, silence) = watch::channel(false);
        tokio::spawn(async move {
            let gone = cut.clone();
            let serve = async {
                while let Ok((caller, _)) = listener.accept().await {
                    tokio::spawn(serve(caller, socket.clone(), cut.clone(), silence.clone()));
                }
            };
            tokio::select! {
                () = serve => {}
                () = closed(gone) => {}
            }
        });
        Self { address, cuts, silent }
    }

    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Ends every connection.
    pub fn cut(&self) {
        self.cuts.send_modify(|cuts| *cuts += 1);
    }

    /// Stops or resumes all data. Data sent meanwhile arrives afterwards.
    pub fn set_silent(&self, silent: bool) {
        self.silent.send_replace(silent);
    }
}

async fn closed(mut cut: watch::Receiver<u64>) {
    while cut.changed().await.is_ok() {}
}

async fn serve(caller: TcpStream, socket: impl AsRef<Path>, mut cut: watch::Receiver<u64>, silence: watch::Receiver<bool>) {
    cut.mark_unchanged();
    let Ok(server) = UnixStream::connect(socket).await else { return };
    let (from_caller, to_caller) = caller.into_split();
    let (from_server, to_server) = server.into_split();
    tokio::select! {
        _ = cut.changed() => {}
        _ = async { tokio::join!(carry(from_caller, to_server, silence.clone()), carry(from_server, to_caller, silence)) } => {}
    }
}

/// Copies one direction until either side ends.
async fn carry(mut from: impl AsyncRead + Unpin, mut to: impl AsyncWrite + Unpin, mut silence: watch::Receiver<bool>) {
    let mut bytes = vec![0; 64 << 10];
    while let Ok(count @ 1..) = from.read(&mut bytes).await {
        if silence.wait_for(|silent| !silent).await.is_err() || to.write_all(&bytes[..count]).await.is_err() {
            return;
        }
    }
    // The other side must see that the connection has ended.
    let _ = to.shutdown().await;
}
