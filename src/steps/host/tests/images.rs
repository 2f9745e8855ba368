//! Scenarios of the images that are pulled ahead.

use crate::{
    error::Kind,
    ports::Role,
    steps::{State, host::Images},
    testing::{FakeWorld, identity, settings},
};

#[test]
fn each_role_gets_the_images_that_it_runs() {
    let mut settings = settings();
    let calico = settings.addons.get_mut("calico").unwrap();
    calico.images = vec!["quay.io/calico/node:v3.32.1".into()];
    let list = |settings: &crate::config::Settings, role| {
        let images = Images::wanted(settings, &identity(role));
        images.unwrap().images
    };
    assert_eq!(
        list(&settings, Role::Worker),
        [
            "registry.k8s.io/pause:3.10.2",
            "registry.k8s.io/kube-proxy:v1.36.3",
            "quay.io/calico/node:v3.32.1",
        ]
    );
    assert_eq!(
        list(&settings, Role::ControlPlane),
        [
            "registry.k8s.io/kube-proxy:v1.36.3",
            "quay.io/calico/node:v3.32.1",
            "registry.k8s.io/coredns/coredns:v1.14.2",
        ]
    );
    settings.kubernetes.image_repository = "mirror.example.com/k8s".into();
    settings.addons.get_mut("calico").unwrap().enabled = false;
    assert_eq!(
        list(&settings, Role::ControlPlane),
        [
            "mirror.example.com/k8s/kube-proxy:v1.36.3",
            "mirror.example.com/k8s/coredns:v1.14.2",
        ]
    );
    let own = |settings: &crate::config::Settings| Images::of_control_plane(settings).unwrap();
    assert_eq!(
        own(&settings).images,
        [
            "mirror.example.com/k8s/pause:3.10.2",
            "mirror.example.com/k8s/etcd:3.6.8-0",
            "mirror.example.com/k8s/kube-apiserver:v1.36.3",
            "mirror.example.com/k8s/kube-controller-manager:v1.36.3",
            "mirror.example.com/k8s/kube-scheduler:v1.36.3",
        ]
    );
    settings.images.preload = false;
    assert!(list(&settings, Role::ControlPlane).is_empty());
    assert!(own(&settings).images.is_empty());
}

#[test]
fn an_image_that_is_overridden_is_not_pulled() {
    let mut settings = settings();
    let calico = settings.addons.get_mut("calico").unwrap();
    calico.images = vec![
        "quay.io/calico/node:v3".into(),
        "quay.io/calico/cni:v3".into(),
    ];
    let other = "registry.example.com/node:v3".to_owned();
    calico.image_overrides = [("quay.io/calico/node".to_owned(), other.clone())].into();
    let images = Images::wanted(&settings, &identity(Role::Worker))
        .unwrap()
        .images;
    assert!(images.contains(&other), "{images:?}");
    assert!(
        images.contains(&"quay.io/calico/cni:v3".to_owned()),
        "{images:?}"
    );
    assert!(
        !images
            .iter()
            .any(|image| image.contains("quay.io/calico/node")),
        "{images:?}"
    );
}

/// `ctr` would show the password to every process.
#[test]
fn images_of_private_registries_are_left_to_the_kubelet() {
    let mut settings = settings();
    let calico = settings.addons.get_mut("calico").unwrap();
    let private = "123456789012.dkr.ecr.eu-central-1.amazonaws.com/calico/node:v3";
    let other = "registry.example.com/calico/node:v3";
    calico.images = vec![private.into(), other.into(), "quay.io/calico/cni:v3".into()];
    let login = ("registry.example.com".to_owned(), "ssm:/a".to_owned());
    settings.images.logins = [login].into();
    let images = Images::wanted(&settings, &identity(Role::Worker))
        .unwrap()
        .images;
    assert!(
        images.contains(&"quay.io/calico/cni:v3".to_owned()),
        "{images:?}"
    );
    for image in [private, other] {
        assert!(!images.contains(&image.to_owned()), "{images:?}");
    }
}

#[test]
fn an_image_without_its_registry_is_refused() {
    let mut settings = settings();
    settings.addons.get_mut("calico").unwrap().images = vec!["calico/node:v3".into()];
    let error = Images::wanted(&settings, &identity(Role::Worker)).unwrap_err();
    assert_eq!(error.kind(), Kind::Refused);
    assert!(
        error.to_string().starts_with(
            "error: `calico/node:v3` does not name its registry's host\n  hint: write it in full"
        ),
        "{error}"
    );
}

#[tokio::test(start_paused = true)]
async fn missing_images_are_pulled_three_at_a_time_through_the_mirrors() {
    let machine = FakeWorld::new();
    let images = Images::of_control_plane(&settings()).unwrap();
    machine
        .commands
        .state()
        .images
        .insert("registry.k8s.io/pause:3.10.2".into());
    assert_eq!(
        machine.differs(&images).await,
        "registry.k8s.io/etcd:3.6.8-0 and 3 more images are not pulled yet"
    );
    machine.commands.ran();
    machine.carry_out(&images).await;
    assert_eq!(machine.commands.state().pulling.1, 3);
    let ran = machine.commands.ran();
    assert_eq!(ran.iter().filter(|line| line.contains(" pull ")).count(), 4);
    assert!(ran.contains(
        &"/usr/local/bin/ctr --namespace k8s.io images pull --hosts-dir /etc/containerd/certs.d registry.k8s.io/etcd:3.6.8-0".to_owned()
    ));
    assert_eq!(machine.check(&images).await.unwrap(), State::AsWanted);
}

#[tokio::test(start_paused = true)]
async fn a_denied_image_ends_the_attempt_and_a_broken_pull_is_retried_until_the_deadline() {
    let images = Images::wanted(&settings(), &identity(Role::Worker)).unwrap();
    let pull = "/usr/local/bin/ctr --namespace k8s.io images pull";
    let machine = FakeWorld::new();
    machine.commands.fail(
        pull,
        "ctr: failed to resolve image: registry.k8s.io/x:y: not found",
    );
    let error = machine.apply(&images).await.unwrap_err();
    assert_eq!(error.kind(), Kind::Doubtful);
    assert!(
        error
            .to_string()
            .starts_with("error: cannot pull registry.k8s.io/pause:3.10.2\n"),
        "{error}"
    );
    assert!(
        error
            .remedy()
            .unwrap()
            .contains("the registry has no such image")
    );
    assert!(machine.clock.since_noon().is_zero());

    let machine = FakeWorld::new();
    machine
        .commands
        .fail(pull, "unexpected status: 403 Forbidden");
    let error = machine.apply(&images).await.unwrap_err();
    assert_eq!(error.kind(), Kind::Doubtful);

    let machine = FakeWorld::new();
    machine
        .commands
        .fail(pull, "ctr: content digest sha256:00: not found");
    let error = machine.apply(&images).await.unwrap_err();
    assert_eq!(error.kind(), Kind::Failed);

    let machine = FakeWorld::new();
    machine.commands.fail(pull, "connection reset by peer");
    let error = machine.apply(&images).await.unwrap_err();
    assert_eq!(error.kind(), Kind::Failed);
    let text = error.one_line();
    assert!(
        text.contains("gave up after 900 s waiting for the image"),
        "{text}"
    );
    assert!(text.ends_with("connection reset by peer"), "{text}");
}
