//! Addresses of workers, and whether one answers there. llama.cpp ends the process where it cannot
//! connect, so candor asks first.

use std::io::{ErrorKind, Read as _, Write as _};
use std::net::{SocketAddr, SocketAddrV4, TcpStream, ToSocketAddrs as _};
use std::time::Duration;

use crate::ffi::sys::{RPC_PROTO_MAJOR_VERSION, RPC_PROTO_MINOR_VERSION};
use crate::{Error, Result};

/// How long a worker may take to answer.
const PATIENCE: Duration = Duration::from_secs(5);

/// `RPC_CMD_HELLO` of `ggml-rpc.cpp`, which promises to keep it.
const HELLO: u8 = 14;
/// Bytes by which the two sides would agree on another transport than TCP; all zero: none.
const N_CAPABILITY: usize = 24;

/// `host:port` as an IPv4 address: llama.cpp's RPC knows no other, and one spelling per worker keeps
/// it from connecting to it twice.
pub(super) fn resolve(text: &str) -> Result<SocketAddrV4> {
    let fail = |problem: String| Error::Worker { address: text.to_owned(), problem };
    let (host, port) = text
        .split_once(':')
        .filter(|(host, port)| !host.is_empty() && !port.contains(':'))
        .ok_or_else(|| fail("expected host:port, with a name or an IPv4 address".to_owned()))?;
    let port: u16 =
        port.parse().map_err(|_| fail(format!("`{port}` is not a port: expected 0 to 65535")))?;
    let addresses = (host, port)
        .to_socket_addrs()
        .map_err(|e| fail(format!("`{host}` cannot be resolved ({e})")))?;
    addresses
        .filter_map(|address| match address {
            SocketAddr::V4(address) => Some(address),
            SocketAddr::V6(_) => None,
        })
        .next()
        .ok_or_else(|| fail(format!("`{host}` has no IPv4 address, which llama.cpp needs")))
}

/// Asks for the greeting of llama.cpp's RPC server of this release.
pub(super) fn greet(address: SocketAddrV4) -> Result<()> {
    let fail = |problem: String| Error::Worker { address: address.to_string(), problem };
    let mut stream = TcpStream::connect_timeout(&address.into(), PATIENCE).map_err(|e| {
        fail(format!("nothing answers there ({e}): start a worker on that machine"))
    })?;
    let (major, minor) = exchange(&mut stream).map_err(|error| {
        fail(match error.kind() {
            ErrorKind::WouldBlock | ErrorKind::TimedOut => format!(
                "it does not answer within {} s: it serves one program at a time, and another \
                 may be connected",
                PATIENCE.as_secs()
            ),
            _ => format!("what answers there is not llama.cpp's RPC server ({error})"),
        })
    })?;
    let here = (RPC_PROTO_MAJOR_VERSION, RPC_PROTO_MINOR_VERSION);
    if u32::from(major) != here.0 || u32::from(minor) > here.1 {
        return Err(fail(format!(
            "it speaks version {major}.{minor} of llama.cpp's RPC protocol, and this program {}.{}: \
             run the same release of candor on both machines",
            here.0, here.1
        )));
    }
    Ok(())
}

/// Sends HELLO and reads the server's version: major and minor.
fn exchange(stream: &mut TcpStream) -> std::io::Result<(u8, u8)> {
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    let mut request = vec![HELLO];
    request.extend((N_CAPABILITY as u64).to_ne_bytes());
    request.extend([0; N_CAPABILITY]);
    stream.write_all(&request)?;

    let mut length = [0; 8];
    stream.read_exact(&mut length)?;
    let mut answer = [0; 4 + N_CAPABILITY];
    if u64::from_ne_bytes(length) != answer.len() as u64 {
        return Err(std::io::Error::new(ErrorKind::InvalidData, "an answer of another length"));
    }
    stream.read_exact(&mut answer)?;
    Ok((answer[0], answer[1]))
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use super::*;

    fn complaint(result: Result<impl std::fmt::Debug>) -> String {
        result.expect_err("it is refused").to_string()
    }

    #[test]
    fn takes_names_and_ipv4_addresses() {
        let expected: SocketAddrV4 = "127.0.0.1:50052".parse().unwrap();
        assert_eq!(resolve("127.0.0.1:50052").unwrap(), expected);
        assert_eq!(resolve("localhost:50052").unwrap(), expected);
    }

    #[test]
    fn refuses_what_is_no_address() {
        for text in ["", "127.0.0.1", ":50052", "[::1]:50052", "::1", "a:b:1"] {
            assert!(complaint(resolve(text)).contains("expected host:port"), "{text}");
        }
        for text in ["127.0.0.1:", "127.0.0.1:x", "127.0.0.1:65536", "127.0.0.1:-1"] {
            assert!(complaint(resolve(text)).contains("is not a port"), "{text}");
        }
        assert!(complaint(resolve("no.such.host.invalid:1")).contains("cannot be resolved"));
    }

    #[test]
    fn nobody_there_is_an_error() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let SocketAddr::V4(address) = listener.local_addr().unwrap() else { unreachable!() };
        drop(listener);
        assert!(complaint(greet(address)).contains("nothing answers there"));
    }

    /// What `greet` says to a server that reads its request and gives this answer.
    fn greeted_by(answer: &[u8]) -> Result<()> {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let SocketAddr::V4(address) = listener.local_addr().unwrap() else { unreachable!() };
        std::thread::scope(|scope| {
            scope.spawn(move || {
                let (mut stream, _) = listener.accept().unwrap();
                let mut request = [0; 1 + 8 + N_CAPABILITY];
                stream.read_exact(&mut request).unwrap();
                assert_eq!(request[0], HELLO);
                stream.write_all(answer).unwrap();
            });
            greet(address)
        })
    }

    fn answer_of(major: u8, minor: u8) -> Vec<u8> {
        let mut answer = 28u64.to_ne_bytes().to_vec();
        answer.extend([major, minor, 0, 0]);
        answer.extend([0; N_CAPABILITY]);
        answer
    }

    #[test]
    fn another_protocol_or_version_is_an_error() {
        let here = (RPC_PROTO_MAJOR_VERSION as u8, RPC_PROTO_MINOR_VERSION as u8);
        assert!(greeted_by(&answer_of(here.0, here.1)).is_ok());
        for answer in [answer_of(here.0 + 1, 0), answer_of(here.0, here.1 + 1)] {
            assert!(complaint(greeted_by(&answer)).contains("the same release"));
        }
        for answer in [&b"HTTP/1.1 400 Bad Request\r\n\r\n"[..], b"", b"abc"] {
            assert!(complaint(greeted_by(answer)).contains("is not llama.cpp's RPC server"));
        }
    }
}
