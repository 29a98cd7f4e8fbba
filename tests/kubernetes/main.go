// Reads Kubernetes manifests from standard input and reports what a cluster would refuse or should: fields that do not exist, values
// of the wrong type, and pods that the Pod Security Standard "restricted" does not allow. Its arguments are what is allowed all the
// same, in the words of that report, such as hostPort.
package main

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"

	monitoring "github.com/prometheus-operator/prometheus-operator/pkg/apis/monitoring/v1"
	apps "k8s.io/api/apps/v1"
	core "k8s.io/api/core/v1"
	networking "k8s.io/api/networking/v1"
	policy "k8s.io/api/policy/v1"
	meta "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/yaml"
	"k8s.io/pod-security-admission/api"
	security "k8s.io/pod-security-admission/policy"
	"sigs.k8s.io/json"
	strict "sigs.k8s.io/yaml"
)

// What a manifest of this API version and kind is decoded into.
func typeOf(apiVersion, kind string) any {
	switch apiVersion + "/" + kind {
	case "v1/ConfigMap":
		return &core.ConfigMap{}
	case "v1/Namespace":
		return &core.Namespace{}
	case "v1/Secret":
		return &core.Secret{}
	case "v1/Service":
		return &core.Service{}
	case "v1/ServiceAccount":
		return &core.ServiceAccount{}
	case "v1/Pod":
		return &core.Pod{}
	case "apps/v1/DaemonSet":
		return &apps.DaemonSet{}
	case "apps/v1/StatefulSet":
		return &apps.StatefulSet{}
	case "networking.k8s.io/v1/Ingress":
		return &networking.Ingress{}
	case "networking.k8s.io/v1/NetworkPolicy":
		return &networking.NetworkPolicy{}
	case "policy/v1/PodDisruptionBudget":
		return &policy.PodDisruptionBudget{}
	case "monitoring.coreos.com/v1/ServiceMonitor":
		return &monitoring.ServiceMonitor{}
	case "monitoring.coreos.com/v1/PrometheusRule":
		return &monitoring.PrometheusRule{}
	}
	return nil
}

// What is wrong with a pod and with how its owner selects it.
func checkPod(evaluator security.Evaluator, selector *meta.LabelSelector, template *core.PodTemplateSpec) error {
	if selector != nil {
		for key, value := range selector.MatchLabels {
			if template.Labels[key] != value {
				return fmt.Errorf("the selector's %s=%s is no label of the pod", key, value)
			}
		}
	}
	volumes := map[string]bool{}
	for _, volume := range template.Spec.Volumes {
		volumes[volume.Name] = true
	}
	for _, container := range append(template.Spec.InitContainers, template.Spec.Containers...) {
		for _, port := range container.Ports {
			if messages := validation.IsValidPortName(port.Name); len(messages) > 0 {
				return fmt.Errorf("port %s: %s", port.Name, messages)
			}
		}
		for _, probe := range []*core.Probe{container.LivenessProbe, container.ReadinessProbe, container.StartupProbe} {
			if probe == nil || probe.HTTPGet == nil {
				continue
			}
			found := false
			for _, port := range container.Ports {
				found = found || port.Name == probe.HTTPGet.Port.StrVal
			}
			if !found {
				return fmt.Errorf("a probe asks port %s, which the container does not have", probe.HTTPGet.Port.String())
			}
		}
		for _, mount := range container.VolumeMounts {
			if !volumes[mount.Name] {
				return fmt.Errorf("volume %s is mounted and not defined", mount.Name)
			}
		}
	}
	version := api.LevelVersion{Level: api.LevelRestricted, Version: api.LatestVersion()}
	var broken []string
	for _, result := range evaluator.EvaluatePod(version, &template.ObjectMeta, &template.Spec) {
		if !result.Allowed && !slices.Contains(os.Args[1:], result.ForbiddenReason) {
			broken = append(broken, result.ForbiddenReason+": "+result.ForbiddenDetail)
		}
	}
	if len(broken) > 0 {
		return fmt.Errorf("not allowed by the restricted profile: %s", strings.Join(broken, "; "))
	}
	return nil
}

func check(evaluator security.Evaluator, text []byte) (string, error) {
	var head meta.TypeMeta
	if err := strict.Unmarshal(text, &head); err != nil {
		return "", err
	}
	object := typeOf(head.APIVersion, head.Kind)
	if object == nil {
		return "", fmt.Errorf("%s of %s is no kind known here", head.Kind, head.APIVersion)
	}
	// By the rules of the API server: a name in other letters, upper or lower, is another name.
	document, err := strict.YAMLToJSONStrict(text)
	if err != nil {
		return head.Kind, err
	}
	mistakes, err := json.UnmarshalStrict(document, object)
	if err = errors.Join(append(mistakes, err)...); err != nil {
		return head.Kind, err
	}
	name := object.(meta.Object).GetName()
	title := head.Kind + " " + name
	if messages := validation.IsDNS1123Subdomain(name); len(messages) > 0 {
		return title, fmt.Errorf("name: %s", messages)
	}
	for key, value := range object.(meta.Object).GetLabels() {
		if messages := append(validation.IsQualifiedName(key), validation.IsValidLabelValue(value)...); len(messages) > 0 {
			return title, fmt.Errorf("label %s=%s: %s", key, value, messages)
		}
	}
	switch object := object.(type) {
	case *apps.StatefulSet:
		template := object.Spec.Template
		for _, claim := range object.Spec.VolumeClaimTemplates {
			template.Spec.Volumes = append(template.Spec.Volumes, core.Volume{Name: claim.Name,
				VolumeSource: core.VolumeSource{PersistentVolumeClaim: &core.PersistentVolumeClaimVolumeSource{ClaimName: claim.Name}}})
		}
		return title, checkPod(evaluator, object.Spec.Selector, &template)
	case *apps.DaemonSet:
		return title, checkPod(evaluator, object.Spec.Selector, &object.Spec.Template)
	case *core.Pod:
		return title, checkPod(evaluator, nil, &core.PodTemplateSpec{ObjectMeta: object.ObjectMeta, Spec: object.Spec})
	}
	return title, nil
}

func main() {
	evaluator, err := security.NewEvaluator(security.DefaultChecks())
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(2)
	}
	documents, count, failed := yaml.NewYAMLReader(bufio.NewReader(os.Stdin)), 0, false
	for {
		text, err := documents.Read()
		if errors.Is(err, io.EOF) {
			break
		}
		if err == nil && len(bytes.TrimSpace(text)) > 0 && !onlyComments(text) {
			var title string
			title, err = check(evaluator, text)
			count++
			if err != nil {
				err = fmt.Errorf("%s: %w", title, err)
			}
		}
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			failed = true
		}
	}
	if count == 0 {
		fmt.Fprintln(os.Stderr, "no manifest was read")
		failed = true
	}
	if failed {
		os.Exit(1)
	}
}

func onlyComments(text []byte) bool {
	for line := range strings.Lines(string(text)) {
		line = strings.TrimSpace(line)
		if line != "" && line != "---" && !strings.HasPrefix(line, "#") {
			return false
		}
	}
	return true
}
