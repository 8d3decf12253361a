//! Invented secrets, one and more for each built-in kind of redaction, each with a text that almost holds one.
//!
//! They are put together when the program runs, so that no scanner of repositories takes this file for a leak. Used by
//! the daemon's own tests too, which include this file: it needs nothing but the standard library.

/// A text with a secret in it.
#[derive(Clone, Debug)]
pub struct Sample {
    pub kind: &'static str,
    /// What must not leave the machine.
    pub secret: String,
    /// The secret as it occurs.
    pub text: String,
    /// Of the same form, but no secret of any kind.
    pub near_miss: String,
}

const DIGITS: &str = "0123456789";
const HEX: &str = "0123456789abcdef";
const UPPER: &str = "ABCDEFGHIJKLMNOPQRSTUVWXYZ234567";
const LOWER: &str = "abcdefghijklmnopqrstuvwxyz0123456789";
const ALNUM: &str = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789";
const BECH32: &str = "QPZRY9X8GF2TVDW0S3JN54KHCE6MUA7L";

/// At least one sample for each kind; the order is that of the rules.
pub fn samples() -> Vec<Sample> {
    let mut table = Table::default();
    keys_as_files(&mut table);
    clouds(&mut table);
    code_hosting(&mut table);
    registries(&mut table);
    models(&mut table);
    chat_mail_payments(&mut table);
    services(&mut table);
    forms(&mut table);
    table.0
}

#[derive(Default)]
struct Table(Vec<Sample>);

impl Table {
    /// `before` and `after` stand around the secret; `broken` stands there in the near miss.
    fn add(&mut self, kind: &'static str, before: &str, secret: &str, after: &str, broken: &str) {
        self.0.push(Sample {
            kind,
            secret: secret.to_owned(),
            text: format!("{before}{secret}{after}"),
            near_miss: format!("{before}{broken}{after}"),
        });
    }

    /// A token that is told by its own form: in a sentence, and cut off by a few characters.
    fn token(&mut self, kind: &'static str, secret: &str) {
        let cut = &secret[..secret.len() - secret.len() / 4 - 2];
        self.add(kind, "it answers to ", secret, ", they say", cut);
    }
}

fn keys_as_files(table: &mut Table) {
    let pem = |name: &str, newline: &str| {
        let lines: Vec<String> = (0..4).map(|line| random(line + 7, ALNUM, 64)).collect();
        let last = format!("{}==", random(3, ALNUM, 22));
        let body = lines.join(newline);
        format!(
            "{0}BEGIN {name}{0}{newline}{body}{newline}{last}{newline}{0}END {name}{0}",
            "-----"
        )
    };
    let key = pem(&["PRIVATE", "KEY"].join(" "), "\\n");
    table.add(
        "gcp-service-account-key",
        r#"{"type": "service_account", "private_key": ""#,
        &key,
        r#"\n", "client_email": "x@y.test"}"#,
        "-----BEGIN PRIVATE KEY-----\\n...\\n-----END PRIVATE KEY-----",
    );
    let key = pem(&["PGP PRIVATE", "KEY BLOCK"].join(" "), "\n");
    table.add(
        "pgp-private-key",
        "gpg says\n",
        &key,
        "\n",
        "-----BEGIN PGP PUBLIC KEY BLOCK-----",
    );
    for name in [
        "RSA PRIVATE",
        "EC PRIVATE",
        "OPENSSH PRIVATE",
        "ENCRYPTED PRIVATE",
        "PRIVATE",
    ] {
        let name = format!("{name} KEY");
        for newline in ["\n", "\\n", "\r\n"] {
            let key = pem(&name, newline);
            table.add(
                "private-key",
                "cat id_rsa\n",
                &key,
                "\nend",
                "-----BEGIN PUBLIC KEY-----",
            );
            let cut_off = &key[..key.len() - 100];
            table.add("private-key", "head id_rsa\n", cut_off, "", &cut_off[..32]);
        }
    }
    let numbered = pem("RSA PRIVATE KEY", "\n     7→");
    table.add(
        "private-key",
        "     6→",
        &numbered,
        "\n",
        "-----BEGIN RSA PRIVATE KEY----- is what it begins with",
    );
    let lines = format!("\n{}\n{}", random(5, ALNUM, 64), random(6, ALNUM, 64));
    table.add(
        "putty-private-key",
        "Private-Lines: 2",
        &lines,
        "\nPrivate-MAC: ",
        "\nnone",
    );
    table.token(
        "age-secret-key",
        &["AGE-SECRET", "-KEY-1", &random(1, BECH32, 58)].concat(),
    );
}

fn clouds(table: &mut Table) {
    for prefix in ["AKIA", "ASIA"] {
        table.token("aws-access-key-id", &format!("{prefix}{}", random(2, UPPER, 16)));
    }
    let key = random(3, ALNUM, 40);
    for before in [
        "aws_secret_access_key = ",
        "AWS_SECRET_ACCESS_KEY=",
        "\"SecretAccessKey\": \"",
        "secretKey: '",
    ] {
        table.add("aws-secret-key", before, &key, "\"'\n", "given-elsewhere");
    }
    let token = ["IQoJb3JpZ2lu", &random(4, ALNUM, 200)].concat();
    table.add("aws-session-token", "AWS_SESSION_TOKEN=", &token, "\n", "none");
    table.token("google-api-key", &["AI", "za", &random(5, ALNUM, 35)].concat());
    table.token(
        "google-oauth-token",
        &["ya", "29.", &random(6, ALNUM, 60)].concat(),
    );
    table.0.pop();
    table.add(
        "google-oauth-token",
        "",
        &["ya", "29.", &random(6, ALNUM, 60)].concat(),
        " is it",
        "ya29.short",
    );
    table.add(
        "google-oauth-token",
        "",
        &["1/", "/0", &random(7, ALNUM, 50)].concat(),
        " is it",
        "1//0short",
    );
    table.token(
        "google-oauth-secret",
        &["GOC", "SPX-", &random(8, ALNUM, 28)].concat(),
    );
    let key = format!("{}==", random(9, ALNUM, 86));
    table.add(
        "azure-storage-key",
        "AccountName=x;AccountKey=",
        &key,
        ";EndpointSuffix=y",
        "none",
    );
    let key = format!("{}=", random(10, ALNUM, 43));
    table.add(
        "azure-shared-access-key",
        "SharedAccessKeyName=x;SharedAccessKey=",
        &key,
        "\n",
        "none",
    );
    let signature = format!("{}%3D", random(11, ALNUM, 43));
    table.add(
        "azure-sas-signature",
        "https://x.test/?sv=2024-01-01&sig=",
        &signature,
        "&se=1",
        "none",
    );
    let secret = ["aB", "18Q", "~", &random(12, ALNUM, 34)].concat();
    table.add("azure-client-secret", "it is ", &secret, "\n", "8Q~none");
    table.token(
        "azure-devops-token",
        &[&random(13, ALNUM, 76), "AZ", "DO", &random(14, ALNUM, 4)].concat(),
    );
    table.token(
        "digitalocean-token",
        &["do", "p_v1_", &random(15, HEX, 64)].concat(),
    );
    table.add(
        "heroku-api-key",
        "",
        &["HR", "KU-", &random(16, ALNUM, 58)].concat(),
        "\n",
        "HRKU-short",
    );
    table.add("heroku-api-key", "HEROKU_API_KEY=", &uuid(17), "\n", "none");
    let key = random(18, ALNUM, 40);
    table.add("cloudflare-key", "CLOUDFLARE_API_TOKEN=", &key, "\n", "none");
    table.token(
        "alibaba-access-key",
        &["LT", "AI", &random(19, ALNUM, 20)].concat(),
    );
    table.token("hosting-token", &["fo", "1_", &random(20, ALNUM, 43)].concat());
    table.token("hosting-token", &["sb", "p_", &random(21, HEX, 40)].concat());
}

fn code_hosting(table: &mut Table) {
    let token = [
        "github",
        "_pat_",
        &random(1, ALNUM, 22),
        "_",
        &random(2, ALNUM, 59),
    ]
    .concat();
    table.token("github-fine-grained-token", &token);
    for letter in ["p", "o", "u", "s", "r"] {
        table.token(
            "github-token",
            &["gh", letter, "_", &random(3, ALNUM, 36)].concat(),
        );
    }
    table.token("gitlab-token", &["glp", "at-", &random(4, ALNUM, 20)].concat());
    table.token(
        "atlassian-token",
        &["ATAT", "T3", &random(5, ALNUM, 186)].concat(),
    );
    table.0.pop();
    table.add(
        "atlassian-token",
        "",
        &["ATAT", "T3", &random(5, ALNUM, 186)].concat(),
        " is it",
        "ATATT3short",
    );
    table.token("atlassian-token", &["AT", "BB", &random(6, ALNUM, 32)].concat());
    table.token("build-token", &["bk", "ua_", &random(7, HEX, 40)].concat());
    table.token("build-token", &["sq", "p_", &random(8, HEX, 40)].concat());
    let token = [&random(9, ALNUM, 14), ".atlas", "v1.", &random(10, ALNUM, 67)].concat();
    table.token("terraform-cloud-token", &token);
    table.add(
        "vault-token",
        "VAULT: ",
        &["hv", "s.", &random(11, ALNUM, 90)].concat(),
        "\n",
        "hvs.short",
    );
    table.token("doppler-token", &["dp.", "pt.", &random(12, ALNUM, 43)].concat());
    table.add(
        "one-password-token",
        "",
        &["ops_", "eyJ", &random(13, ALNUM, 250)].concat(),
        "\n",
        "ops_eyJshort",
    );
    table.add(
        "tailscale-key",
        "",
        &[
            "tskey-",
            "auth-",
            &random(14, ALNUM, 17),
            "-",
            &random(15, ALNUM, 32),
        ]
        .concat(),
        "\n",
        "tskey-auth-short",
    );
}

fn registries(table: &mut Table) {
    table.token("npm-token", &["np", "m_", &random(1, ALNUM, 36)].concat());
    table.add(
        "npm-token",
        "//registry.npmjs.org/:_authToken=",
        &uuid(2),
        "\n",
        "${NPM_TOKEN}",
    );
    table.add(
        "pypi-token",
        "",
        &["py", "pi-AgE", &random(3, ALNUM, 150)].concat(),
        "\n",
        "pypi-AgEshort",
    );
    table.token("crates-io-token", &["c", "io", &random(4, ALNUM, 32)].concat());
    table.token("rubygems-token", &["ruby", "gems_", &random(5, HEX, 48)].concat());
    table.token("nuget-key", &["oy", "2", &random(6, LOWER, 43)].concat());
    table.token("docker-token", &["dck", "r_pat_", &random(7, ALNUM, 27)].concat());
    let login = ["YWI6", "c3Vw", "ZXJz", "M2Ny"].concat();
    table.add(
        "docker-login",
        r#""registry.test": {"auth": ""#,
        &login,
        "\"}",
        "authenticationMiddleware",
    );
    table.token("artifactory-token", &["AK", "Cp", &random(9, ALNUM, 69)].concat());
}

fn models(table: &mut Table) {
    table.add(
        "anthropic-key",
        "",
        &["sk-", "ant-api03-", &random(1, ALNUM, 95)].concat(),
        "\n",
        "sk-ant-short",
    );
    table.add(
        "openai-key",
        "",
        &["sk-", "proj-", &random(2, ALNUM, 120)].concat(),
        "\n",
        "sk-proj-short",
    );
    table.token("openai-key", &["s", "k-", &random(3, ALNUM, 48)].concat());
    table.0.pop();
    table.add(
        "openai-key",
        "key: ",
        &["s", "k-", &random(3, ALNUM, 48)].concat(),
        "\n",
        "sk-learn-is-a-library",
    );
    table.token("openrouter-key", &["sk-", "or-v1-", &random(4, HEX, 64)].concat());
    table.token("hugging-face-token", &["h", "f_", &random(5, ALNUM, 34)].concat());
    table.token("model-api-key", &["gs", "k_", &random(6, ALNUM, 52)].concat());
    table.token("model-api-key", &["r", "8_", &random(7, ALNUM, 37)].concat());
}

fn chat_mail_payments(table: &mut Table) {
    for prefix in ["xoxb-", "xoxp-", "xoxe.xoxp-1-"] {
        let token = [
            &prefix[..2],
            &prefix[2..],
            &random(1, DIGITS, 12),
            "-",
            &random(2, ALNUM, 24),
        ]
        .concat();
        table.add("slack-token", "SLACK=", &token, "\n", "xoxb-none");
    }
    let path = [
        "T",
        &random(3, UPPER, 8),
        "/B",
        &random(4, UPPER, 8),
        "/",
        &random(5, ALNUM, 24),
    ]
    .concat();
    table.add(
        "slack-webhook",
        "https://hooks.slack.com/services/",
        &path,
        "\n",
        "T/B/x",
    );
    let path = [&random(6, "123456789", 18), "/", &random(7, ALNUM, 68)].concat();
    table.add(
        "discord-webhook",
        "https://discord.com/api/webhooks/",
        &path,
        "\n",
        "1/x",
    );
    let token = [
        "M",
        &random(8, ALNUM, 25),
        ".",
        &random(9, ALNUM, 6),
        ".",
        &random(10, ALNUM, 38),
    ]
    .concat();
    table.token("discord-bot-token", &token);
    let token = [&random(11, "123456789", 10), ":A", "A", &random(12, ALNUM, 33)].concat();
    table.token("telegram-bot-token", &token);
    let path = [
        &uuid(13),
        "@",
        &uuid(14),
        "/IncomingWebhook/",
        &random(15, HEX, 32),
        "/",
        &uuid(16),
    ]
    .concat();
    table.add(
        "teams-webhook",
        "https://acme.webhook.office.com/webhookb2/",
        &path,
        "\n",
        "x",
    );
    for prefix in ["sk_live_", "rk_live_", "sk_test_"] {
        let key = [&prefix[..4], &prefix[4..], &random(17, ALNUM, 24)].concat();
        table.add("stripe-key", "stripe: ", &key, "\n", "sk_live_short");
    }
    table.add(
        "stripe-key",
        "",
        &["wh", "sec_", &random(18, ALNUM, 32)].concat(),
        "\n",
        "whsec_short",
    );
    table.add(
        "square-token",
        "",
        &["sq0", "atp-", &random(19, ALNUM, 22)].concat(),
        "\n",
        "sq0atp-short",
    );
    let token = [
        "access_",
        "token$production$",
        &random(20, LOWER, 16),
        "$",
        &random(21, HEX, 32),
    ]
    .concat();
    table.token("paypal-braintree-token", &token);
    table.token("shopify-token", &["shp", "at_", &random(22, HEX, 32)].concat());
    table.token("twilio-key", &["S", "K", &random(23, HEX, 32)].concat());
    table.add(
        "twilio-key",
        "TWILIO_AUTH_TOKEN=",
        &random(24, HEX, 32),
        "\n",
        "none",
    );
    let key = ["S", "G.", &random(25, ALNUM, 22), ".", &random(26, ALNUM, 43)].concat();
    table.token("sendgrid-key", &key);
    table.token("mailgun-key", &["ke", "y-", &random(27, HEX, 32)].concat());
    table.add(
        "mailchimp-key",
        "",
        &[&random(28, HEX, 32), "-us", "12"].concat(),
        "\n",
        "1234abcd-us12",
    );
    let key = ["xkey", "sib-", &random(29, HEX, 64), "-", &random(30, ALNUM, 16)].concat();
    table.token("mail-service-key", &key);
}

fn services(table: &mut Table) {
    table.token("databricks-token", &["da", "pi", &random(1, HEX, 32)].concat());
    table.add(
        "linear-key",
        "",
        &["lin_", "api_", &random(2, ALNUM, 40)].concat(),
        "\n",
        "lin_api_short",
    );
    table.token("notion-token", &["nt", "n_", &random(3, ALNUM, 46)].concat());
    table.token("figma-token", &["fig", "d_", &random(4, ALNUM, 40)].concat());
    table.token("launchdarkly-key", &["sd", "k-", &uuid(5)].concat());
    table.token("new-relic-key", &["NR", "AK-", &random(6, UPPER, 27)].concat());
    table.0.pop();
    table.add(
        "new-relic-key",
        "",
        &["NR", "AK-", &random(6, UPPER, 27)].concat(),
        "\n",
        "NRAK-SHORT",
    );
    let token = ["gl", "sa_", &random(7, ALNUM, 32), "_", &random(8, HEX, 8)].concat();
    table.token("grafana-token", &token);
    table.token("sentry-token", &["sntr", "yu_", &random(9, HEX, 64)].concat());
    table.add("datadog-key", "DD_API_KEY=", &random(10, HEX, 32), "\n", "none");
    let token = ["dt0", "c01.", &random(11, UPPER, 24), ".", &random(12, UPPER, 64)].concat();
    table.token("dynatrace-token", &token);
    let secret = random(13, ALNUM, 43);
    table.add(
        "coditect-token",
        &format!("{}.", uuid(14)),
        &secret,
        "\n",
        "short",
    );
    table.add(
        "coditect-token",
        "CODITECT_LICENSE_KEY=",
        &random(15, UPPER, 25),
        "\n",
        "none",
    );
}

fn forms(table: &mut Table) {
    let token = [
        "ey",
        "J",
        &random(1, ALNUM, 33),
        ".ey",
        "J",
        &random(2, ALNUM, 80),
        ".",
        &random(3, ALNUM, 43),
    ]
    .concat();
    table.add(
        "jwt",
        "the session is ",
        &token,
        "; and so on",
        "eyJhbGciOiJIUzI1NiJ9.e30.",
    );
    let login = ["YWI6", "Zm9v", "YmFy", "M2Ny"].concat();
    table.add("basic-auth", "Authorization: Basic ", &login, "\r\n", "<login>");
    let token = random(5, ALNUM, 40);
    for before in [
        "Authorization: Bearer ",
        "\"authorization\": \"Bearer ",
        "curl -H 'authorization: token ",
    ] {
        table.add("bearer-token", before, &token, "\" '", "$TOKEN");
    }
    table.add(
        "bearer-token",
        "then Bearer ",
        &token,
        " goes in",
        "tokens-are-what-we-need",
    );
    for scheme in [
        "postgres",
        "postgresql",
        "mysql",
        "redis",
        "mongodb+srv",
        "amqp",
        "https",
    ] {
        let before = format!("{scheme}://app:");
        table.add(
            "connection-string",
            &before,
            &random(6, LOWER, 14),
            "@db.test:5432/x",
            "${PASSWORD}",
        );
    }
    table.add(
        "connection-string",
        "git clone https://",
        &random(7, ALNUM, 30),
        "@git.test/x",
        "git.test/x?",
    );
    let password = format!("{}!", random(8, ALNUM, 12));
    table.add(
        "command-line-password",
        "curl -s -u admin:",
        &password,
        " https://x.test",
        "$PASSWORD",
    );
    table.add(
        "command-line-password",
        "x --password ",
        &password,
        " --yes",
        "FILE",
    );
    table.add(
        "command-line-password",
        "sshpass -p ",
        &password,
        " ssh x",
        "$PASSWORD",
    );
    table.add(
        "command-line-password",
        "machine x.test login me password ",
        &password,
        "\n",
        "$PASSWORD",
    );
    for (before, after, broken) in [
        ("curl -u admin:", " https://x.test", "$PASSWORD"),
        ("curl -uadmin:", " https://x.test", "${PASSWORD}"),
        ("curl -sSu 'admin:", "' https://x.test", "$PASSWORD"),
        ("curl --user=admin:", " https://x.test", "<password>"),
        ("mysql -p", " shop", "$PASSWORD"),
        ("mysqldump -h db.test -uroot -p", " shop", " shop1!"),
        ("docker login -u me -p ", " registry.test", "$PASSWORD"),
        ("podman login registry.test -p", "\n", "$PASSWORD"),
        ("redis-cli -h cache.test -a ", " ping", "$PASSWORD"),
    ] {
        table.add("command-line-password", before, &password, after, broken);
    }
    let session = random(12, HEX, 32);
    for (before, after) in [
        ("Cookie: sessionid=", "; theme=dark"),
        ("Set-Cookie: theme=dark; JSESSIONID=", "; Path=/"),
        ("curl -H 'Cookie: connect.sid=", "' https://x.test"),
    ] {
        table.add("session-cookie", before, &session, after, "<session of the user>");
    }
    for (before, after) in [
        (r#"{"name":"DB_PASSWORD","value":""#, "\"}"),
        ("{\"Name\": \"DB_PASSWORD\",\n  \"Value\": \"", "\"}"),
        ("env:\n  - name: DB_PASSWORD\n    value: ", "\n"),
        ("  - name: \"DB_PASSWORD\"\n    value: '", "'\n"),
        ("     7→  - name: DB_PASSWORD\n     8→    value: ", "\n"),
    ] {
        table.add("password", before, &password, after, "$(DB_PASSWORD)");
    }
    for (before, after) in [
        ("DB_PASSWORD=", "\n"),
        ("\"password\": \"", "\"}"),
        ("\\\"password\\\":\\\"", "\\\"}"),
        ("password: '", "'\n"),
        ("let password = \"", "\";"),
        ("<password>", "</password>"),
        ("Server=x;User Id=me;Password=", ";Encrypt=true"),
    ] {
        table.add("password", before, &password, after, "changeme");
    }
    let secret = random(9, ALNUM, 32);
    for (before, after) in [
        ("API_KEY=", "\n"),
        ("export ACME_SECRET_KEY=\"", "\"\n"),
        ("\"clientSecret\": \"", "\","),
        ("\\\"api_key\\\": \\\"", "\\\","),
        ("secret: ", "\n"),
        ("X-Api-Key: ", "\r\n"),
        ("os.environ[\"ACME_TOKEN\"] = \"", "\"\n"),
        ("setenv(\"ACME_TOKEN\", \"", "\")"),
        ("?access_token=", "&page=2"),
    ] {
        for broken in [
            "your-api-key-here-123",
            "process.env.ACME_KEY_1",
            "xxxxxxxxxxxxxxxxxxxx",
            "cl100k_base_v2_tokens",
        ] {
            table.add("high-entropy-assignment", before, &secret, after, broken);
        }
    }
    for before in [
        r#"{"name":"ACME_API_KEY","value":""#,
        "  - name: ACME_API_KEY\n    value: \"",
    ] {
        table.add(
            "high-entropy-assignment",
            before,
            &secret,
            "\"}\n",
            "acme-key-of-staging",
        );
    }
    table.add(
        "high-entropy-assignment",
        "client_secret = ",
        &uuid(10),
        "\n",
        "generate_secret_v4(16)",
    );
    table.add(
        "high-entropy-assignment",
        "token: ",
        &random(11, HEX, 40),
        "\n",
        "2026-11-24T10:00:00.000Z",
    );
}

/// Characters of an alphabet, the same for the same seed.
pub fn random(seed: u64, alphabet: &str, count: usize) -> String {
    let alphabet = alphabet.as_bytes();
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ 0x5851_f42d_4c95_7f2d;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        usize::try_from(state >> 33).unwrap_or_default()
    };
    (0..count)
        .map(|_| char::from(alphabet[next() % alphabet.len()]))
        .collect()
}

fn uuid(seed: u64) -> String {
    let digits = random(seed, HEX, 32);
    let parts = [
        &digits[..8],
        &digits[8..12],
        &digits[12..16],
        &digits[16..20],
        &digits[20..],
    ];
    parts.join("-")
}
