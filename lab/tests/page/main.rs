//! The `aws` commands of docs/getting-started.md, with the AWS CLI against moto: `make page`.
//!
//! They run as they stand, in the page's order, with the variables that the page sets. The agent's
//! binary makes the stack.
#![allow(clippy::unwrap_used, clippy::panic)]

mod shell;
mod statements;

use lab::layout::Layout;
use shell::Shell;

const PAGE: &str = "docs/getting-started.md";

/// Programs that need more than the AWS API. tests/cli/documentation.rs parses the agent's commands.
const NOT_AWS: [&str; 4] = ["make", "skopeo", "curl", "sudo"];

/// A command that moto cannot carry out, how it fails, and why. It runs all the same: the CLI must
/// accept and send it. Once moto can, it must leave this list.
const NOT_IN_MOTO: [(&str, &str, &str); 3] = [
    (
        "aws ssm start-session",
        "500 Internal Server Error",
        "moto has no sessions",
    ),
    (
        "aws autoscaling start-instance-refresh",
        "500 Internal Server Error",
        "moto has no instance refresh",
    ),
    (
        "aws cloudformation delete-stack",
        "(DependencyViolation) when calling the DeleteStack operation: The vpc",
        "moto deletes no route tables, and therefore not their VPC, which it deletes last",
    ),
];

/// A part of a statement, and what happens before it.
const BEFORE: [(&str, &str); 3] = [
    // The second time it is rendered with other settings: moto refuses a stack that does not change.
    (
        "target/dist/k8s-bootstrap-linux-amd64 cloudformation",
        "test ! -e stack.yaml || echo '# other settings' >> config.toml",
    ),
    // The stack's image is a public parameter, of which moto has only Amazon's. At an update moto
    // looks the parameter's value up once more, so the replacement has its own name as value.
    (
        "aws cloudformation deploy",
        "image=ami-0123456789abcdef0 &&
         sed --in-place \"s|/aws/service/canonical/.*|$image|\" stack.yaml && grep --quiet $image stack.yaml &&
         aws ssm put-parameter --overwrite --type String --name $image --value $image",
    ),
    // A record as control planes write it, with more entries than one call deletes.
    (
        "aws ssm get-parameters-by-path",
        "for number in 1 2 3 4 5 6; do for kind in founder initialized; do
           aws ssm put-parameter --type String --name /k8s-bootstrap/demo/$kind/$number --value i-1 || exit
         done; done",
    ),
];

/// A part of a statement, what is asked after it, and the answer. The statement's output is in the
/// file `said`.
const AFTER: [(&str, &str, &str); 10] = [
    (
        "aws s3 cp",
        "aws s3 ls \"s3://$account-agents\" | wc --lines",
        "1",
    ),
    (
        "aws ec2 describe-instances",
        "grep -E '^[0-9.]+\t' said | cut -f 2 | sort | xargs",
        "demo-control-plane demo-worker demo-worker",
    ),
    ("--parameter-overrides Workers=3", WORKERS, "3"),
    // The stack was rendered again and deployed: new instances get the other settings, and there are
    // as many workers as before.
    (
        "aws autoscaling start-instance-refresh",
        "for data in $(aws ec2 describe-launch-template-versions --versions '$Latest' --output text \
           --query 'LaunchTemplateVersions[].LaunchTemplateData.UserData'); do
           echo $data | base64 --decode | grep --count '# other settings'
         done | xargs",
        "1 1",
    ),
    ("aws autoscaling start-instance-refresh", WORKERS, "3"),
    (
        "aws cloudformation delete-stack",
        "aws ec2 describe-instances --filters Name=instance-state-name,Values=running --query 'length(Reservations)'",
        "0",
    ),
    (
        "aws ssm get-parameters-by-path",
        "aws ssm get-parameters-by-path --path /k8s-bootstrap --recursive --query 'length(Parameters)'",
        "0",
    ),
    // AWS deletes ten in a call, moto any number.
    (
        "aws ssm get-parameters-by-path",
        "grep --count DeletedParameters said",
        "2",
    ),
    // Only the bucket of backups stays.
    (
        "aws s3 rb",
        "aws s3api list-buckets --query 'Buckets[].Name' --output text | cut -d - -f 1,2",
        "demo-backups",
    ),
    (
        "aws ecr delete-repository",
        "aws ecr describe-repositories --query 'length(repositories)'",
        "0",
    ),
];

/// The instances in the workers' group.
const WORKERS: &str = "aws autoscaling describe-auto-scaling-groups --auto-scaling-group-names demo-workers \
     --query 'AutoScalingGroups[].Instances[] | length(@)'";

/// An instance of the stack.
const INSTANCE: &str =
    "aws ec2 describe-instances --query 'Reservations[0].Instances[0].InstanceId' --output text";

#[tokio::test]
async fn the_pages_aws_commands_are_accepted() {
    let layout = Layout::find().unwrap();
    let page = std::fs::read_to_string(layout.repository().join(PAGE)).unwrap();
    let statements = statements::of(&page);
    let parts = NOT_IN_MOTO
        .iter()
        .map(|(part, ..)| part)
        .chain(BEFORE.iter().map(|(part, _)| part))
        .chain(AFTER.iter().map(|(part, ..)| part));
    for part in parts {
        let there = statements.iter().any(|line| line.contains(part));
        assert!(there, "{PAGE} has no `{part}` any more");
    }
    let shell = Shell::start(&layout).await;
    let mut failures = String::new();
    for statement in &statements {
        let first = statement.split_whitespace().next().unwrap_or_default();
        if NOT_AWS.contains(&first) && !statements::runs(statement, "aws") {
            continue;
        }
        println!("{statement}");
        if let Err(failure) = carry_out(&shell, statement) {
            println!("    {failure}");
            failures += &format!("{PAGE}: `{statement}`: {failure}\n");
        }
    }
    assert!(failures.is_empty(), "{failures}");
}

/// Runs a statement of the page, with what belongs before and after it.
fn carry_out(shell: &Shell, statement: &str) -> Result<(), String> {
    for (_, before) in BEFORE.iter().filter(|row| statement.contains(row.0)) {
        shell.ask(before)?;
    }
    let command = if statement.contains("INSTANCE") {
        statement.replace("INSTANCE", &shell.ask(INSTANCE)?)
    } else {
        statement.to_owned()
    };
    let output = shell.run(&command);
    std::fs::write(shell.folder().join("said"), &output.stdout).map_err(|e| e.to_string())?;
    let said = String::from_utf8_lossy(&output.stderr);
    let unable = NOT_IN_MOTO.iter().find(|row| statement.contains(row.0));
    match (unable, output.status.success()) {
        (None, true) => {}
        (None, false) => return Err(format!("{}: {said}", output.status)),
        (Some((_, how, _)), false) if said.contains(how) => {}
        (Some((_, how, why)), false) => {
            return Err(format!("{why}, but it does not say `{how}`: {said}"));
        }
        (Some((.., why)), true) => {
            return Err(format!("works by now: it was not to, because {why}"));
        }
    }
    for (_, question, expected) in AFTER.iter().filter(|row| statement.contains(row.0)) {
        let answer = shell.ask(question)?;
        if answer != *expected {
            return Err(format!(
                "then `{question}` says `{answer}`, not `{expected}`"
            ));
        }
    }
    Ok(())
}
