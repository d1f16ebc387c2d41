//! Taking the ports, and naming who has them already.

use std::{fs, net::SocketAddr};

use anyhow::{Context as _, bail};
use tokio::net::TcpListener;

/// Binds a port, or says who has it.
pub(crate) async fn bind(what: &str, address: SocketAddr) -> anyhow::Result<TcpListener> {
    match TcpListener::bind(address).await {
        Ok(listener) => Ok(listener),
        Err(busy) if busy.kind() == std::io::ErrorKind::AddrInUse => {
            let owner = owner(address).map_or_else(
                || "another process".to_owned(),
                |(pid, name)| format!("{name} (pid {pid})"),
            );
            bail!(
                "{what} cannot listen on {address}: {owner} has it. End that process, or choose \
                 another address in tarn.toml"
            )
        }
        Err(bad) => Err(bad).with_context(|| format!("{what} cannot listen on {address}")),
    }
}

/// Finds the process that listens on a port.
fn owner(address: SocketAddr) -> Option<(u32, String)> {
    let inode = ["/proc/net/tcp", "/proc/net/tcp6"]
        .iter()
        .find_map(|table| listening_inode(&fs::read_to_string(table).ok()?, address.port()))?;
    let wanted = format!("socket:[{inode}]");
    for process in fs::read_dir("/proc").ok()?.flatten() {
        let Some(pid) = process.file_name().to_str().and_then(|name| name.parse::<u32>().ok())
        else {
            continue;
        };
        let Ok(fds) = fs::read_dir(process.path().join("fd")) else { continue };
        let holds = fds.flatten().any(|fd| {
            fs::read_link(fd.path()).is_ok_and(|link| link.as_os_str() == wanted.as_str())
        });
        if holds {
            let name = fs::read_to_string(process.path().join("comm")).unwrap_or_default();
            return Some((pid, name.trim().to_owned()));
        }
    }
    None
}

/// Finds the socket in state LISTEN (`0A`) with a local port, in the text of `/proc/net/tcp`.
fn listening_inode(table: &str, port: u16) -> Option<u64> {
    let suffix = format!(":{port:04X}");
    table.lines().skip(1).find_map(|line| {
        let fields: Vec<&str> = line.split_whitespace().collect();
        let listens = fields.get(1)?.ends_with(&suffix) && *fields.get(3)? == "0A";
        if listens { fields.get(9)?.parse().ok() } else { None }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_busy_port_is_named_with_its_owner() {
        let any = "127.0.0.1:0".parse().expect("an address");
        let first = bind("the API", any).await.expect("a free port");
        let taken = first.local_addr().expect("bound");
        let refused = bind("the API", taken).await.expect_err("busy").to_string();
        assert!(refused.contains(&format!("(pid {})", std::process::id())), "{refused}");
    }

    #[test]
    fn only_listening_sockets_count() {
        let table = "  sl  local_address rem_address   st tx rx tr tm retr uid timeout inode\n\
            0: 0100007F:22C4 00000000:0000 01 0:0 00:0 0 0 0 41 1\n\
            1: 0100007F:22C4 00000000:0000 0A 0:0 00:0 0 0 0 42 1\n";
        assert_eq!(listening_inode(table, 8900), Some(42));
        assert_eq!(listening_inode(table, 8901), None);
    }
}
