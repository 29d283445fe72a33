//! A Postgres server for tests. It is a separate server in a temporary folder, with its socket in that folder. When the process
//! that started the server ends, for any reason, the server and its folder are removed.

use std::{
    fs,
    net::TcpListener,
    os::unix::fs::{MetadataExt as _, PermissionsExt as _},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::atomic::{AtomicU32, Ordering},
    time::{Duration, Instant},
};

use crate::receivers::Identity;

/// Timeout for an answer of the server.
const READY_MAX: Duration = Duration::from_secs(60);

/// A shell script that keeps the server running while the script's standard input is open, and then removes everything.
const KEEPER: &str = r#"folder="$1"; shift; "$@" & pid=$!; trap '' INT TERM; cat > /dev/null; kill -QUIT $pid 2> /dev/null; wait $pid; rm -rf "$folder""#;

/// A running server.
pub struct PostgresServer {
    folder: PathBuf,
    programs: PathBuf,
    /// Words that are put before every command, so that it runs as another user, because the server refuses to run as root.
    as_owner: Vec<String>,
    /// One shell per start of the server. Each waits for the end of this process, and then removes the folder.
    keepers: Vec<Child>,
    databases: AtomicU32,
    /// Number of certificates offered so far.
    identities: AtomicU32,
    /// The port in the name of the server's socket; also the TCP port if the server listens on 127.0.0.1.
    port: u16,
}

impl PostgresServer {
    /// Creates and starts a server. If `durable`, the server syncs its commits, as in production. Otherwise commits survive a crash
    /// of the server, but no power cut.
    pub fn start(durable: bool) -> Self {
        Self::start_at("", 5432, durable)
    }

    /// Creates and starts a server that also listens on a free port of 127.0.0.1, at first without TLS.
    pub fn start_on_tcp() -> Self {
        let free = TcpListener::bind(("127.0.0.1", 0)).and_then(|listener| listener.local_addr());
        Self::start_at("127.0.0.1", free.expect("a free port").port(), false)
    }

    fn start_at(addresses: &str, port: u16, durable: bool) -> Self {
        let programs = programs();
        let folder = tempfile::Builder::new().prefix("innesco-pg").tempdir().expect("a folder for temporary files").keep();
        let as_owner = as_owner(&folder);
        let mut server = Self {
            folder,
            programs,
            as_owner,
            keepers: Vec::new(),
            databases: AtomicU32::new(0),
            identities: AtomicU32::new(0),
            port,
        };
        let data = server.folder.join("data");
        let made = server
            .command("initdb")
            .arg("--pgdata")
            .arg(&data)
            .args(["--auth=trust", "--username=innesco", "--encoding=UTF8", "--locale=C", "--no-sync"])
            .output()
            .expect("initdb can be started");
        assert!(made.status.success(), "initdb: {}", String::from_utf8_lossy(&made.stderr));
        let settings = format!(
            "listen_addresses = '{addresses}'\nport = {port}\nunix_socket_directories = '{}'\nmax_connections = 300\nshared_buffers = 64MB\nfsync = {}\n\
             full_page_writes = {}\nlog_min_messages = fatal\nsynchronous_standby_names = 'missing'\nsynchronous_commit = local\n",
            server.folder.display(),
            if durable { "on" } else { "off" },
            if durable { "on" } else { "off" },
        );
        let file = data.join("postgresql.conf");
        let text = fs::read_to_string(&file).expect("initdb wrote a configuration");
        fs::write(&file, format!("{text}\n{settings}")).expect("the configuration can be written");
        server.run();
        server
    }

    fn run(&mut self) {
        let mut command = self.as_owner.clone();
        command.push(self.programs.join("postgres").display().to_string());
        command.extend(["-D".to_owned(), self.folder.join("data").display().to_string()]);
        self.keepers.push(keeper(&self.folder, &command));
        let until = Instant::now() + READY_MAX;
        while self.ask("postgres", "SELECT 1").is_none() {
            assert!(Instant::now() < until, "the server does not answer; its folder is {}", self.folder.display());
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    fn command(&self, program: &str) -> Command {
        let program = self.programs.join(program);
        let mut command = match self.as_owner.split_first() {
            Some((first, rest)) => {
                let mut command = Command::new(first);
                command.args(rest).arg(program);
                command
            }
            None => Command::new(program),
        };
        command.current_dir(&self.folder).stdin(Stdio::null());
        command
    }

    /// Executes one statement and returns its output; `None` if it failed.
    pub fn ask(&self, database: &str, sql: &str) -> Option<String> {
        let output = self
            .command("psql")
            .args(["-X", "-A", "-t", "-q", "-U", "innesco", "-d", database, "-h"])
            .arg(&self.folder)
            .args(["-p", &self.port.to_string(), "-c", sql])
            .output()
            .expect("psql can be started");
        output.status.success().then(|| String::from_utf8_lossy(&output.stdout).trim().to_owned())
    }

    /// Offers TLS with this certificate on connections that are opened afterwards.
    pub fn offer_tls(&self, identity: &Identity) {
        let number = self.identities.fetch_add(1, Ordering::Relaxed);
        let (certificate, key) = (format!("tls-{number}.crt"), format!("tls-{number}.key"));
        let data = self.folder.join("data");
        for (name, pem) in [(&certificate, identity.pem()), (&key, identity.key_pem())] {
            let path = data.join(name);
            fs::write(&path, pem).expect("the folder takes files");
            let owner = fs::metadata(&data).expect("the server's folder");
            std::os::unix::fs::chown(&path, Some(owner.uid()), Some(owner.gid())).expect("a file of the server's owner");
            fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).expect("a file that only its owner reads");
        }
        for (name, value) in [("ssl_cert_file", certificate.as_str()), ("ssl_key_file", &key), ("ssl", "on")] {
            self.ask("postgres", &format!("ALTER SYSTEM SET {name} = '{value}'")).expect("a setting");
        }
        self.ask("postgres", "SELECT pg_reload_conf()").expect("the server reads its settings again");
        let until = Instant::now() + READY_MAX;
        while self.ask("postgres", "SELECT current_setting('ssl') || current_setting('ssl_cert_file')")
            != Some(format!("on{certificate}"))
        {
            assert!(Instant::now() < until, "the server does not offer TLS");
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    /// Returns the port of 127.0.0.1 on which the server listens ([`Self::start_on_tcp`]).
    pub const fn port(&self) -> u16 {
        self.port
    }

    fn pid_file(&self) -> PathBuf {
        self.folder.join("data").join("postmaster.pid")
    }

    /// Returns the process id of the main server process.
    pub fn pid(&self) -> u32 {
        let text = fs::read_to_string(self.pid_file()).expect("a running server has a file with its number");
        text.lines().next().and_then(|line| line.parse().ok()).expect("which is in its first line")
    }

    /// Kills the server in the middle of its work, and restarts it after `pause`.
    pub fn crash(&mut self, pause: Duration) {
        let number = self.pid().to_string();
        let killed = Command::new("kill").args(["-QUIT", &number]).status().expect("kill can be started");
        assert!(killed.success(), "the server was running");
        let until = Instant::now() + READY_MAX;
        while self.pid_file().exists() {
            assert!(Instant::now() < until, "the server does not end");
            std::thread::sleep(Duration::from_millis(10));
        }
        std::thread::sleep(pause);
        self.run();
    }

    /// Makes every commit in a database succeed without answering the client, until [`Self::break_off_commit`]. Affects only
    /// connections that are opened afterwards.
    pub fn hold_back_commits(&self, database: &str) {
        // Every commit then waits for a standby that never answers.
        self.ask("postgres", &format!("ALTER DATABASE {database} SET synchronous_commit = on")).expect("a setting");
        self.disconnect(database);
    }

    /// Waits until the commit of a transaction hangs, and closes all connections. So the client never learns that the commit
    /// succeeded.
    pub fn break_off_commit(&self, database: &str) {
        let sql = format!(
            "SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'SyncRep' AND query = 'COMMIT' AND datname = '{database}'"
        );
        let until = Instant::now() + READY_MAX;
        while self.ask("postgres", &sql).is_none_or(|held| held == "0") {
            assert!(Instant::now() < until, "no transaction was committed");
            std::thread::sleep(Duration::from_millis(10));
        }
        self.ask("postgres", &format!("ALTER DATABASE {database} RESET synchronous_commit")).expect("a setting");
        self.disconnect(database);
    }

    /// Closes every connection to a database.
    pub fn disconnect(&self, database: &str) {
        let sql = format!("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = '{database}'");
        self.ask("postgres", &sql).expect("connections can be ended");
    }

    /// Creates an empty database, and returns its name.
    pub fn database(&self) -> String {
        let name = format!("test_{}", self.databases.fetch_add(1, Ordering::Relaxed));
        self.ask("postgres", &format!("CREATE DATABASE {name}")).expect("a database can be made");
        name
    }

    /// Removes a database, even with open connections.
    pub fn drop_database(&self, name: &str) {
        let _ = self.ask("postgres", &format!("DROP DATABASE IF EXISTS {name} WITH (FORCE)"));
    }

    /// Returns the path of the server's socket.
    pub fn socket(&self) -> PathBuf {
        self.folder.join(format!(".s.PGSQL.{}", self.port))
    }

    /// Returns the URL of a database.
    pub fn url(&self, database: &str) -> String {
        let host = self.folder.display().to_string().replace('/', "%2F");
        format!("postgres://innesco@{host}:{}/{database}", self.port)
    }
}

/// Returns the folder of the server's programs, which is not in PATH.
fn programs() -> PathBuf {
    let mut found: Vec<PathBuf> = fs::read_dir("/usr/lib/postgresql")
        .into_iter()
        .flatten()
        .filter_map(|version| Some(version.ok()?.path().join("bin")))
        .filter(|programs| programs.join("initdb").exists())
        .collect();
    found.sort_by_key(|programs| programs.parent().and_then(|version| version.file_name()?.to_str()?.parse::<u32>().ok()));
    found.pop().expect("PostgreSQL is not installed, and these tests start a server: apt-get install postgresql")
}

/// Returns the words that are put before every command. If this process is root, they run the command as the user `postgres`,
/// because the server refuses to run as root, and this function gives the folder to that user. Otherwise no words are needed.
fn as_owner(folder: &Path) -> Vec<String> {
    let number = |args: &[&str]| {
        let output = Command::new("id").args(args).output().expect("id can be started");
        String::from_utf8_lossy(&output.stdout).trim().parse::<u32>().ok()
    };
    if number(&["-u"]) != Some(0) {
        return Vec::new();
    }
    let user = number(&["-u", "postgres"]).expect("there is a user postgres: apt-get install postgresql");
    let group = number(&["-g", "postgres"]).expect("there is a group postgres");
    std::os::unix::fs::chown(folder, Some(user), Some(group)).expect("root can give a folder away");
    ["setpriv".to_owned(), format!("--reuid={user}"), format!("--regid={group}"), "--clear-groups".to_owned()].to_vec()
}

fn keeper(folder: &Path, command: &[String]) -> Child {
    let mut keeper = Command::new("sh");
    keeper.args(["-c", KEEPER, "keeper"]).arg(folder).args(command);
    // The keeper is in a separate process group, so that an interrupt at the terminal does not stop the clean-up.
    std::os::unix::process::CommandExt::process_group(&mut keeper, 0);
    keeper.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("a shell can be started")
}
