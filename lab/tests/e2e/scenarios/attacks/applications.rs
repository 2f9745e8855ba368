//! The applications that the join service refuses.

use libtest_mimic::Failed;
use serde_json::Value;

use super::{
    each_is_logged, entries,
    foothold::{Answer, Attempt, Foothold},
    nowhere_in_the_journal, secret_of,
};
use crate::{
    scenarios::control_planes::LONE,
    stage::{Stage, ensure, json, text, until},
};

/// How an honest application is falsified.
enum Twist<'a> {
    /// It contains or signs something else.
    Says(&'a dyn Fn(&mut Attempt)),
    /// It is signed correctly and changed before it is sent.
    Sends(&'a dyn Fn(&mut Value)),
}

use Twist::{Says, Sends};

/// The refusals so far, as the control plane logs them.
#[derive(Default)]
struct Refusals(Vec<String>);

impl Refusals {
    /// Expects an answer to be this refusal.
    fn expect(
        &mut self,
        case: &str,
        from: &Foothold,
        answer: &Answer,
        status: u16,
        reason: &str,
    ) -> Result<(), Failed> {
        let unanswered = status == 0;
        ensure(
            answer.0 == status && (unanswered || answer.1.contains(reason)),
            format!("{case}: {answer:?} instead of {status}, {reason}"),
        )?;
        // The log contains the same reason as the answer, and no more.
        let said = if unanswered { reason } else { &answer.1 };
        let line = format!("join refused to {}: {said}", from.address);
        self.0.push(line);
        Ok(())
    }
}

pub fn the_join_service_lets_nobody_be_more_than_itself(stage: &Stage) -> Result<(), Failed> {
    let before = entries(stage, "cp1")?;
    let (cp1, w1, w2) = (
        Foothold::on(stage, "cp1")?,
        Foothold::on(stage, "w1")?,
        Foothold::on(stage, "w2")?,
    );
    let server = &cp1.address;
    let elsewhere = stage.control_planes_of(LONE[2])?;
    let elsewhere = elsewhere.first().ok_or("there is no other cluster")?;
    let elsewhere = Foothold::on(stage, elsewhere)?;
    let mut refusals = Refusals::default();

    // One address may send a burst of twenty requests, and each of these cases sends two.
    let half: [(&str, Twist, u16, &str); 8] = [
        (
            "a worker as a control plane",
            Says(&|a| a.applicant["role"] = "control-plane".into()),
            403,
            "may not join as control-plane",
        ),
        (
            "another node's instance and name",
            Says(&|a| {
                a.applicant["instance"] = w2.instance.as_str().into();
                a.applicant["node"] = w2.node.as_str().into();
            }),
            403,
            "not signed by that instance",
        ),
        (
            "another node's name",
            Says(&|a| a.applicant["node"] = w2.node.as_str().into()),
            403,
            "not the instance's private DNS name",
        ),
        (
            "a control plane's name",
            Says(&|a| a.applicant["node"] = cp1.node.as_str().into()),
            403,
            "not the instance's private DNS name",
        ),
        (
            "another cluster in the application alone",
            Says(&|a| a.applicant["cluster"] = "other".into()),
            403,
            "this control plane belongs to another cluster",
        ),
        (
            "a proof for another cluster",
            Says(&|a| a.cluster = "other".into()),
            403,
            "signed for another cluster",
        ),
        (
            "another region's STS",
            Says(&|a| a.region = "us-east-1"),
            403,
            "another region or service",
        ),
        (
            "another service",
            Says(&|a| a.service = "ec2"),
            403,
            "another region or service",
        ),
    ];
    let other_half: [(&str, Twist, u16, &str); 9] = [
        (
            "another body",
            Says(&|a| a.body = "Action=GetSessionToken&Version=2011-06-15".into()),
            403,
            "STS does not accept the signature",
        ),
        (
            "an action in the query",
            Says(&|a| a.url.push_str("?Action=AssumeRole")),
            403,
            "STS does not accept the signature",
        ),
        (
            "a foreign host",
            Says(&|a| a.url = "https://sts.example.com/".into()),
            403,
            "STS does not accept the signature",
        ),
        (
            "an invented nonce",
            Says(&|a| a.nonce = "0123456789abcdef0123456789abcdef".into()),
            403,
            "unknown here or was used before",
        ),
        (
            "an unsigned nonce",
            Sends(&|a| {
                edit(a, "authorization", |v| {
                    v.replace(";x-k8s-bootstrap-nonce", "")
                });
            }),
            403,
            "header x-k8s-bootstrap-nonce is not signed",
        ),
        (
            "a signature that was altered",
            Sends(&|a| edit(a, "authorization", flipped)),
            403,
            "STS does not accept the signature",
        ),
        (
            "a host to send it to",
            Sends(&|a| a["proof"][0][0] = "host".into()),
            400,
            "an unexpected header",
        ),
        (
            "a method to send it by",
            Sends(&|a| a["method"] = "GET".into()),
            400,
            "is malformed",
        ),
        (
            "an applicant with more to say",
            Sends(&|a| a["applicant"]["region"] = "us-east-1".into()),
            400,
            "is malformed",
        ),
    ];
    for (from, rows) in [(&w1, &half[..]), (&w2, &other_half)] {
        for (case, twist, status, reason) in rows {
            let mut attempt = from.honest(from.nonce(server)?);
            if let Says(change) = twist {
                change(&mut attempt);
            }
            let mut application = from.sign(&attempt)?;
            if let Sends(change) = twist {
                change(&mut application);
            }
            let answer = from.apply(server, &application)?;
            refusals.expect(case, from, &answer, *status, reason)?;
        }
    }

    // Nonces that are valid for somebody else.
    let mut of = |case: &str, nonce: String, reason: &str| {
        let application = elsewhere.sign(&elsewhere.honest(nonce))?;
        let answer = elsewhere.apply(server, &application)?;
        refusals.expect(case, &elsewhere, &answer, 403, reason)
    };
    let theirs = elsewhere.nonce(&elsewhere.address)?;
    of("another cluster's nonce", theirs, "unknown here")?;
    of(
        "another address's nonce",
        cp1.nonce(server)?,
        "issued to another address",
    )?;
    of(
        "an instance of another cluster",
        elsewhere.nonce(server)?,
        "EC2 lists no such instance in this cluster",
    )?;

    // Instances with valid keys that are not at the address that they claim, or no longer exist.
    let gone = stage.launch(&[])?;
    let gone = until(30, "its keys", || Foothold::on(stage, &gone))?;
    stage.lab(&["terminate", &gone.machine, "--hard"])?;
    for (case, signer, reason) in [
        ("a terminated instance", &gone, "as running"),
        ("another address", &w1, "the instance's private address"),
    ] {
        let application = signer.sign(&signer.honest(elsewhere.nonce(server)?))?;
        let answer = elsewhere.apply(server, &application)?;
        refusals.expect(case, &elsewhere, &answer, 403, reason)?;
    }

    // Requests that are not applications.
    let large = " ".repeat(16_500);
    for (case, options, body, status, reason) in [
        (
            "an oversized body",
            "--data-binary @- https://SERVER/join",
            &*large,
            413,
            "too large",
        ),
        (
            "an action next to the path",
            "--data-binary @- 'https://SERVER/join?Action=AssumeRole'",
            "{}",
            400,
            "the request must not have a query",
        ),
        (
            "another path",
            "https://SERVER/token",
            "",
            404,
            "there is no such path",
        ),
        ("no TLS", "http://SERVER/nonce", "", 0, "TLS failed"),
    ] {
        let answer = cp1.curl(server, options, body)?;
        refusals.expect(case, &cp1, &answer, status, reason)?;
    }
    let slow = "POST /join HTTP/1.1\\r\\nhost: x\\r\\ncontent-length: 10\\r\\n\\r\\n";
    let answer = cp1.never_ending(server, slow)?;
    refusals.expect("a slow body", &cp1, &answer, 408, "the body took too long")?;

    // The node itself: it may join again once it is lost, and only once with an application.
    let application = w1.sign(&w1.honest(w1.nonce(server)?))?;
    let answer = w1.apply(server, &application)?;
    refusals.expect("a Ready worker", &w1, &answer, 403, "no second token")?;
    // The kubelet may report between the two steps.
    let while_lost = |change: &dyn Fn(&mut Attempt), status: u16| {
        until(60, "an answer about a lost node", || {
            let mut attempt = w1.honest(w1.nonce(server)?);
            change(&mut attempt);
            let application = w1.sign(&attempt)?;
            w1.seem_lost()?;
            let answer = w1.apply(server, &application)?;
            let ready = answer.1.contains("no second token");
            ensure(answer.0 == status && !ready, format!("{answer:?}"))?;
            Ok((application, answer))
        })
    };
    let role = "node-role.kubernetes.io/control-plane";
    let labelled = |a: &mut Attempt| a.applicant["labels"][role] = "".into();
    let (_, answer) = while_lost(&labelled, 403)?;
    refusals.expect("a control plane's label", &w1, &answer, 403, role)?;
    let (application, (_, ticket)) = while_lost(&|_| {}, 200)?;
    let token = text(&json(&ticket)?["token"]);
    let again = w1.apply(server, &application)?;
    refusals.expect("a proof that was used", &w1, &again, 403, "used before")?;

    let often = elsewhere.curl(server, "https://SERVER/[1-60]", "")?;
    let reason = "this address makes too many requests";
    refusals.expect("a flood", &elsewhere, &often, 0, reason)?;

    each_is_logged(stage, "cp1", before, &refusals.0)?;
    let keys = [&w1, &w2, &gone, &elsewhere].map(|foothold| &foothold.secrets[..]);
    let secrets = [keys.concat(), vec![secret_of(&token)]].concat();
    nowhere_in_the_journal(stage, "cp1", &secrets)
}

/// Changes a header of an application's proof.
fn edit(application: &mut Value, name: &str, change: impl Fn(&str) -> String) {
    let headers = application["proof"].as_array_mut();
    for header in headers.into_iter().flatten() {
        if header[0] == name {
            header[1] = change(&text(&header[1])).into();
        }
    }
}

/// Changes the last digit of the signature.
fn flipped(authorization: &str) -> String {
    let (rest, last) = authorization.split_at(authorization.len() - 1);
    let other = if last == "0" { "1" } else { "0" };
    format!("{rest}{other}")
}
