//! Looks for ways past row level security, in every table that the catalogue knows.
//!
//! It works on a scratch database: constraints are taken off, so that a row can be made in any table from its columns'
//! types alone, and a table that comes tomorrow is looked at like all others. What it finds, it says; a test expects
//! that it finds nothing, and others that it finds what they broke.

use std::collections::BTreeSet;

use futures_util::StreamExt as _;
use tokio_postgres::Client;
use tokio_postgres::error::SqlState;
use uuid::Uuid;

use crate::postgres::{APP, TestDatabase};

/// Tables that belong to no tenant, each with its reason in the migration that makes it.
pub const WITHOUT_TENANT: [&str; 5] = [
    "device_codes",
    "login_directory",
    "schema_migrations",
    "server_instance",
    "sign_in_attempts",
];

/// Of these the serving role sees nothing at all.
const CLOSED: [&str; 3] = ["device_codes", "login_directory", "sign_in_attempts"];

/// Functions that run with the owner's rights and that the serving role may call. Each takes what proves itself (a
/// digest), or reads the tenant from the transaction.
pub const DEFINER_FUNCTIONS: [&str; 10] = [
    "device_code_decide",
    "device_code_look",
    "device_code_make",
    "device_code_poll",
    "device_code_take",
    "login_enter_email",
    "login_enter_subject",
    "login_lookup",
    "sign_in_attempt",
    "sign_in_passed",
];

/// One row's owner.
#[derive(Clone, Copy)]
struct Whose {
    tenant: Uuid,
    user: Uuid,
}

struct Table {
    name: String,
    has_tenant: bool,
    /// Rows are one user's.
    of_user: bool,
    is_forced: bool,
    /// Columns that need a value, with their types.
    columns: Vec<(String, String)>,
    /// A column that the serving role may change.
    updatable: Option<String>,
}

/// What a row security that holds would not let happen.
pub async fn faults(database: &TestDatabase) -> Vec<String> {
    let look = database.look().await;
    let app = database.as_app().await;
    let mine = Whose {
        tenant: Uuid::new_v4(),
        user: Uuid::new_v4(),
    };
    let colleagues = Whose {
        user: Uuid::new_v4(),
        ..mine
    };
    let foreign = Whose {
        tenant: Uuid::new_v4(),
        user: Uuid::new_v4(),
    };
    look.batch_execute(TAKE_CONSTRAINTS_OFF)
        .await
        .expect("taking constraints off");
    let tables = tables(&look).await;
    let mut faults = Vec::new();
    for table in &tables {
        if WITHOUT_TENANT.contains(&table.name.as_str()) {
            continue;
        }
        if !table.has_tenant {
            faults.push(format!("{}: no tenant_id", table.name));
            continue;
        }
        if !table.is_forced {
            faults.push(format!("{}: row security is not forced", table.name));
        }
        for whose in [mine, colleagues, foreign] {
            look.batch_execute(&insert(table, whose))
                .await
                .unwrap_or_else(|error| panic!("filling {}: {error:?}", table.name));
        }
        let attempt = Attempt {
            database,
            app: &app,
            table,
            mine,
            colleagues,
            foreign,
        };
        attempt.reads(&mut faults).await;
        attempt.writes(&mut faults).await;
        attempt.copies(&mut faults).await;
    }
    around_the_tables(&look, &app, &mut faults).await;
    faults
}

/// Keys and checks of every table: a row is made up, and a tenant has two of each.
const TAKE_CONSTRAINTS_OFF: &str = "
DO $$
DECLARE c record;
BEGIN
    FOR c IN SELECT conrelid::regclass AS tab, conname FROM pg_constraint
              WHERE connamespace = 'public'::regnamespace AND contype IN ('f', 'c', 'u', 'p') AND conrelid <> 0
              ORDER BY contype = 'f' DESC
    LOOP
        EXECUTE format('ALTER TABLE %s DROP CONSTRAINT IF EXISTS %I CASCADE', c.tab, c.conname);
    END LOOP;
END $$";

async fn tables(look: &Client) -> Vec<Table> {
    let rows = look
        .query(
            "SELECT c.relname::text AS name, c.relrowsecurity AND c.relforcerowsecurity AS forced,
                    array_agg(a.attname::text ORDER BY a.attnum) AS names,
                    array_agg(format_type(a.atttypid, a.atttypmod) ORDER BY a.attnum) AS types,
                    array_agg(a.attnotnull AND NOT a.atthasdef ORDER BY a.attnum) AS needed,
                    (SELECT min(u.attname::text) FROM pg_attribute u
                      WHERE u.attrelid = c.oid AND u.attnum > 0 AND NOT u.attisdropped
                        AND has_column_privilege($1, c.oid, u.attnum, 'UPDATE')) AS updatable
               FROM pg_class c JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped
              WHERE c.relnamespace = 'public'::regnamespace AND c.relkind IN ('r', 'p')
              GROUP BY c.oid ORDER BY 1",
            &[&APP],
        )
        .await
        .expect("reading the catalogue");
    rows.iter()
        .map(|row| {
            let name: String = row.get("name");
            let names: Vec<String> = row.get("names");
            let types: Vec<String> = row.get("types");
            let needed: Vec<bool> = row.get("needed");
            let has = |column: &str| names.iter().any(|name| name == column);
            let is_own =
                name.starts_with("context_") || name.starts_with("task_") || name == "user_passwords";
            let of_user = is_own && has("user_id");
            let columns = names
                .iter()
                .zip(types)
                .zip(needed)
                .filter(|((name, _), needed)| *needed || ["tenant_id", "user_id"].contains(&name.as_str()))
                .map(|((name, kind), _)| (name.clone(), kind))
                .collect();
            Table {
                has_tenant: has("tenant_id"),
                of_user,
                is_forced: row.get("forced"),
                columns,
                updatable: row.get("updatable"),
                name,
            }
        })
        .collect()
}

/// A row of any table, its values made up from the types.
fn insert(table: &Table, whose: Whose) -> String {
    let values = table.columns.iter().map(|(name, kind)| match name.as_str() {
        "tenant_id" => format!("'{}'", whose.tenant),
        "user_id" => format!("'{}'", whose.user),
        _ => value(kind),
    });
    let values: Vec<String> = values.collect();
    let names: Vec<&str> = table.columns.iter().map(|(name, _)| name.as_str()).collect();
    format!(
        "INSERT INTO {} ({}) VALUES ({})",
        table.name,
        names.join(", "),
        values.join(", ")
    )
}

fn value(kind: &str) -> String {
    let plain = kind.split('(').next().unwrap_or(kind);
    match plain {
        "uuid" => "gen_random_uuid()".to_owned(),
        "boolean" => "false".to_owned(),
        "smallint" | "integer" | "bigint" | "double precision" | "numeric" => {
            "(random() * 30000)::int".to_owned()
        }
        "bytea" => "sha256(gen_random_uuid()::text::bytea)".to_owned(),
        "jsonb" | "json" => "'{}'".to_owned(),
        "text[]" | "character varying[]" => "'{}'".to_owned(),
        "inet" => "'127.0.0.1'".to_owned(),
        _ if plain.starts_with("timestamp") || plain == "date" => "clock_timestamp()".to_owned(),
        _ => {
            let length = kind
                .split(['(', ')'])
                .nth(1)
                .and_then(|length| length.parse().ok());
            format!("left(gen_random_uuid()::text, {})", length.unwrap_or(36).min(36))
        }
    }
}

/// One table, tried by the serving role.
struct Attempt<'a> {
    database: &'a TestDatabase,
    app: &'a Client,
    table: &'a Table,
    mine: Whose,
    colleagues: Whose,
    foreign: Whose,
}

impl Attempt<'_> {
    /// Whom a transaction names, and how many of the three rows it must see.
    fn settings(&self) -> [(String, u64, &'static str); 5] {
        let set = |tenant: Uuid| format!("SET LOCAL app.tenant_id = '{tenant}'");
        let both =
            |whose: Whose, user: Uuid| format!("{}; SET LOCAL app.user_id = '{user}'", set(whose.tenant));
        let tenants = |all: u64, own: u64| if self.table.of_user { own } else { all };
        [
            ("SELECT".to_owned(), 0, "nobody"),
            (set(self.mine.tenant), tenants(2, 0), "a tenant without a user"),
            (both(self.mine, self.mine.user), tenants(2, 1), "the owner"),
            (
                both(self.foreign, self.mine.user),
                tenants(1, 0),
                "the user in another tenant",
            ),
            (
                both(self.foreign, self.foreign.user),
                tenants(1, 1),
                "another tenant",
            ),
        ]
    }

    async fn reads(&self, faults: &mut Vec<String>) {
        let name = &self.table.name;
        for (settings, expected, who) in self.settings() {
            let read = self.run(&settings, &format!("SELECT FROM {name}")).await;
            self.compare(faults, "SELECT", who, read, expected);
        }
    }

    async fn writes(&self, faults: &mut Vec<String>) {
        let name = &self.table.name;
        for (settings, expected, who) in self.settings() {
            if let Some(column) = &self.table.updatable {
                let update = format!("UPDATE {name} SET {column} = {column}");
                let updated = self.run(&settings, &update).await;
                self.compare(faults, "UPDATE", who, updated, expected);
            }
            let deleted = self.run(&settings, &format!("DELETE FROM {name}")).await;
            self.compare(faults, "DELETE", who, deleted, expected);
            let truncated = self.run(&settings, &format!("TRUNCATE {name}")).await;
            if truncated.is_ok() {
                faults.push(format!("{name}: TRUNCATE by {who}"));
            }
        }
        let as_me = format!(
            "SET LOCAL app.tenant_id = '{}'; SET LOCAL app.user_id = '{}'",
            self.mine.tenant, self.mine.user
        );
        let mut others = vec![self.foreign];
        if self.table.of_user {
            others.push(self.colleagues);
        }
        for whose in others {
            if self.run(&as_me, &insert(self.table, whose)).await.is_ok() {
                faults.push(format!("{name}: INSERT of another's row"));
            }
        }
        if self.run("SELECT", &insert(self.table, self.mine)).await.is_ok() {
            faults.push(format!("{name}: INSERT without a tenant"));
        }
        let give_away = format!("UPDATE {name} SET tenant_id = '{}'", self.foreign.tenant);
        if self.run(&as_me, &give_away).await.is_ok() {
            faults.push(format!("{name}: a row is given to another tenant"));
        }
    }

    async fn copies(&self, faults: &mut Vec<String>) {
        let name = &self.table.name;
        for (settings, expected, who) in self.settings() {
            let copied = self.copy_out(&settings).await;
            self.compare(faults, "COPY TO", who, copied, expected);
        }
        // On a connection of its own, since the driver does not go on after a refusal.
        let app = self.database.as_app().await;
        let sink: Result<tokio_postgres::CopyInSink<&'static [u8]>, _> =
            app.copy_in(&format!("COPY {name} FROM STDIN")).await;
        if sink.is_ok() {
            faults.push(format!("{name}: COPY FROM goes past the policies"));
        }
    }

    async fn copy_out(&self, settings: &str) -> Result<u64, SqlState> {
        self.begin(settings).await;
        let copied = match self
            .app
            .copy_out(&format!("COPY {} TO STDOUT", self.table.name))
            .await
        {
            Ok(stream) => {
                let mut stream = std::pin::pin!(stream);
                let mut lines = 0;
                let mut failed = None;
                while let Some(chunk) = stream.next().await {
                    match chunk {
                        Ok(bytes) => lines += bytes.iter().filter(|byte| **byte == b'\n').count() as u64,
                        Err(error) => failed = error.code().cloned(),
                    }
                }
                failed.map_or(Ok(lines), Err)
            }
            Err(error) => Err(state(&error)),
        };
        self.rollback().await;
        copied
    }

    /// Rows that one statement touched, in a transaction that is given up.
    async fn run(&self, settings: &str, statement: &str) -> Result<u64, SqlState> {
        self.begin(settings).await;
        let touched = self
            .app
            .execute(statement, &[])
            .await
            .map_err(|error| state(&error));
        self.rollback().await;
        touched
    }

    /// What is refused for want of a right is as good as what touches nothing, unless it is the owner's own to read.
    fn compare(
        &self,
        faults: &mut Vec<String>,
        what: &str,
        who: &str,
        touched: Result<u64, SqlState>,
        expected: u64,
    ) {
        match touched {
            Ok(rows) if rows == expected => {}
            Ok(rows) => faults.push(format!(
                "{}: {what} by {who} meets {rows} rows instead of {expected}",
                self.table.name
            )),
            Err(state) if state == SqlState::INSUFFICIENT_PRIVILEGE => {}
            Err(state) => faults.push(format!(
                "{}: {what} by {who} fails with {}",
                self.table.name,
                state.code()
            )),
        }
    }

    async fn begin(&self, settings: &str) {
        self.app
            .batch_execute(&format!("BEGIN; {settings}"))
            .await
            .expect("beginning a transaction");
    }

    async fn rollback(&self) {
        self.app.batch_execute("ROLLBACK").await.expect("rolling back");
    }
}

/// Views, functions with the owner's rights, other roles, and the switch that turns row security off.
async fn around_the_tables(look: &Client, app: &Client, faults: &mut Vec<String>) {
    for table in CLOSED {
        for statement in [
            format!("SELECT count(*) FROM {table}"),
            format!("DELETE FROM {table}"),
            format!("COPY {table} TO STDOUT"),
        ] {
            if app.batch_execute(&statement).await.is_ok() {
                faults.push(format!("the serving role may {statement}"));
            }
        }
    }
    let views = look
        .query(
            "SELECT relname::text FROM pg_class
              WHERE relnamespace = 'public'::regnamespace AND relkind IN ('v', 'm', 'f')
                AND has_table_privilege($1, oid, 'SELECT')
                AND NOT coalesce(reloptions @> '{security_invoker=true}', false)",
            &[&APP],
        )
        .await
        .expect("reading the catalogue");
    faults.extend(
        views
            .iter()
            .map(|row| format!("{}: a view with its owner's eyes", row.get::<_, &str>(0))),
    );
    let functions = look
        .query(
            "SELECT proname::text, coalesce(array_to_string(proconfig, ','), '') LIKE '%search_path=%',
                    coalesce(proacl::text, '=X/') LIKE '%{=X/%' OR coalesce(proacl::text, '=X/') LIKE '%,=X/%'
                        OR proacl IS NULL
               FROM pg_proc
              WHERE pronamespace = 'public'::regnamespace AND prosecdef AND has_function_privilege($1, oid, 'EXECUTE')",
            &[&APP],
        )
        .await
        .expect("reading the catalogue");
    let known: BTreeSet<&str> = DEFINER_FUNCTIONS.into_iter().collect();
    for row in &functions {
        let name: &str = row.get(0);
        if !known.contains(name) {
            faults.push(format!(
                "{name}: runs with its owner's rights, and nobody vouches for it"
            ));
        }
        if !row.get::<_, bool>(1) {
            faults.push(format!("{name}: its search_path is not pinned"));
        }
        if row.get::<_, bool>(2) {
            faults.push(format!("{name}: everybody may call it"));
        }
    }
    for statement in [
        "SET ROLE coditect_owner",
        "SET ROLE postgres",
        "SET SESSION AUTHORIZATION postgres",
        "ALTER ROLE coditect_app BYPASSRLS",
        "CREATE TABLE public.mine (a int)",
        "CREATE FUNCTION public.mine() RETURNS int LANGUAGE sql AS 'SELECT 1'",
        "ALTER TABLE users DISABLE ROW LEVEL SECURITY",
        "DROP POLICY tenant_isolation ON users",
        "SET row_security = off; SELECT count(*) FROM users",
        "SELECT pg_read_file('PG_VERSION')",
        "COPY users TO PROGRAM 'cat'",
    ] {
        app.batch_execute("BEGIN").await.expect("beginning a transaction");
        if app.batch_execute(statement).await.is_ok() {
            faults.push(format!("the serving role may {statement}"));
        }
        app.batch_execute("ROLLBACK").await.expect("rolling back");
    }
}

fn state(error: &tokio_postgres::Error) -> SqlState {
    error.code().cloned().unwrap_or(SqlState::CONNECTION_FAILURE)
}
