//! The pages in a real browser: what it refuses to do with them, and that people get through.

use coditect_tests::browser::Browser;
use coditect_tests::oauth::{Device, PASSWORD};
use coditect_tests::server::ServerProcess;

#[tokio::test]
async fn in_a_browser_an_invitation_and_a_device_login_lead_through() {
    let Some(browser) = Browser::open().await else {
        return;
    };
    let server = ServerProcess::start().await;
    let link = server.cli(&["user", "invite", "a@acme.test"]).await.ok();
    browser.resize(800, 900).await;
    browser.go(link.trim()).await;
    browser.picture("1-invitation").await;
    browser.type_into("#password", PASSWORD).await;
    browser.type_into("#again", "something else entirely").await;
    browser.click("button").await;
    browser.wait_for_text("The two passwords differ.").await;
    browser.picture("2-invitation-complaint").await;
    browser.type_into("#password", PASSWORD).await;
    browser.type_into("#again", PASSWORD).await;
    browser.click("button").await;
    browser.wait_for_title("Your password is set").await;
    browser.picture("3-password-set").await;

    let device = Device::new(&server.url());
    let codes = device.begin("Ada's laptop <script>alert(1)</script>").await;
    browser.go(codes["verification_uri"].as_str().unwrap()).await;
    browser.picture("4-code").await;
    browser
        .type_into("#code", &codes["user_code"].as_str().unwrap().to_lowercase())
        .await;
    browser.click("button").await;
    browser.wait_for_title("Sign in").await;
    browser.picture("5-sign-in").await;
    browser.type_into("#email", "a@acme.test").await;
    browser.type_into("#password", "a wrong password").await;
    browser.click("button").await;
    browser.wait_for_text("Address or password is wrong.").await;
    browser.picture("6-sign-in-complaint").await;
    browser.type_into("#password", PASSWORD).await;
    browser.click("button").await;
    browser.wait_for_title("Approve this device?").await;
    let text = browser.text().await;
    for shown in [
        codes["user_code"].as_str().unwrap(),
        "Ada's laptop <script>",
        "127.0.0.1",
        "a@acme.test at acme",
    ] {
        assert!(text.contains(shown), "{shown}: {text}");
    }
    browser.picture("7-decide").await;
    browser.resize(500, 1000).await;
    browser.prefer_dark().await;
    let overflow = browser
        .run("return document.documentElement.scrollWidth - innerWidth")
        .await;
    assert!(
        overflow.as_i64().unwrap() <= 0,
        "the page is wider than the window by {overflow}"
    );
    assert_eq!(
        browser.style("main", "background-color").await,
        "rgba(26, 29, 35, 1)"
    );
    browser.picture("8-decide-narrow-dark").await;
    browser.click("button[value=approve]").await;
    browser.wait_for_title("The device is signed in").await;
    browser.picture("9-approved").await;
    assert!(device.poll(&codes).await.ok()["refresh_token"].is_string());
    let mut complaints = browser.complaints().await;
    // That a form was refused with 422 is what it is told here, and no fault.
    complaints.retain(|said| !said.contains("status of 422"));
    assert_eq!(complaints, Vec::<String>::new());
}

#[tokio::test]
async fn a_browser_lets_no_script_run_no_page_frame_ours_and_no_site_send_our_forms() {
    let Some(browser) = Browser::open().await else {
        return;
    };
    let server = ServerProcess::start().await;
    browser.go(&format!("{}/device", server.url())).await;
    // What an injection would add.
    let added = "const s = document.createElement('script'); s.textContent = 'window.ran = true'; document.body.append(s);
                 const i = document.createElement('img'); i.src = '/favicon.ico'; document.body.append(i);
                 return window.ran === undefined";
    assert_eq!(browser.run(added).await, true);
    let complaints = browser.complaints().await.join("\n");
    assert!(complaints.contains("Content Security Policy"), "{complaints}");
    // No cookie of ours is there for a script to read.
    browser
        .go(&format!("{}/device/confirm?code=BCDF-GHJK", server.url()))
        .await;
    assert_eq!(browser.run("return document.cookie").await, "");

    // Another site: the same server under another name is another origin.
    let elsewhere = server.url().replace("127.0.0.1", "localhost");
    browser.go(&format!("{elsewhere}/health")).await;
    let frame = format!(
        "const f = document.createElement('iframe'); f.src = '{}/device'; document.body.append(f)",
        server.url()
    );
    browser.run(&frame).await;
    coditect_tests::deadline::until(
        "the browser refuses the frame",
        async || browser.complaints().await.join("\n"),
        |said| said.contains("frame-ancestors") || said.contains("X-Frame-Options") || said.contains("frame"),
    )
    .await;
    let post = format!(
        "const f = document.createElement('form'); f.method = 'post'; f.action = '{}/device/sign-in';
         for (const n of ['form', 'code', 'email', 'password']) {{
             const i = document.createElement('input'); i.name = n; i.value = 'BCDF-GHJK'; f.append(i)
         }}
         document.body.append(f); f.submit()",
        server.url()
    );
    browser.run(&post).await;
    browser.wait_for_title("This did not work").await;
}
