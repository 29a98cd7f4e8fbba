// Makes the JSON schemas of this directory, by which kubeconform judges what the chart renders. From tests/kubernetes:
//
//	go run ./schemas
//
// The sources are modules of the Go module proxy: Kubernetes' own description of its API, and the definitions of the Prometheus
// operator. Descriptions are left out. An object allows the fields that it names and no other, as `kubeconform -strict` wants it.
package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"log"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	"sigs.k8s.io/yaml"
)

const (
	kubernetes = "k8s.io/kubernetes@v1.34.1"
	operator   = "github.com/prometheus-operator/prometheus-operator@v0.85.0"
	prefix     = "#/definitions/"
	metadata   = "io.k8s.apimachinery.pkg.apis.meta.v1.ObjectMeta"
	// Described as a string, and written as a number as well: `cpu: 1`.
	quantity = "io.k8s.apimachinery.pkg.api.resource.Quantity"
)

// The kinds of the chart and of examples/kubernetes. A file has the name that kubeconform gives the kind.
var kinds = map[string]string{
	"configmap-v1":                  "io.k8s.api.core.v1.ConfigMap",
	"namespace-v1":                  "io.k8s.api.core.v1.Namespace",
	"secret-v1":                     "io.k8s.api.core.v1.Secret",
	"service-v1":                    "io.k8s.api.core.v1.Service",
	"serviceaccount-v1":             "io.k8s.api.core.v1.ServiceAccount",
	"daemonset-apps-v1":             "io.k8s.api.apps.v1.DaemonSet",
	"statefulset-apps-v1":           "io.k8s.api.apps.v1.StatefulSet",
	"networkpolicy-networking-v1":   "io.k8s.api.networking.v1.NetworkPolicy",
	"poddisruptionbudget-policy-v1": "io.k8s.api.policy.v1.PodDisruptionBudget",
}

var operatorKinds = []string{"servicemonitor", "prometheusrule"}

type object = map[string]any

func main() {
	var api struct{ Definitions map[string]object }
	must(json.Unmarshal(source(kubernetes, "api/openapi-spec/swagger.json"), &api))
	for file, definition := range kinds {
		used := object{}
		schema := compact(api.Definitions[definition], api.Definitions, used).(object)
		write(file, schema, used)
	}
	for _, kind := range operatorKinds {
		var crd struct {
			Spec struct {
				Versions []struct {
					Name   string
					Schema struct{ OpenAPIV3Schema object }
				}
			}
		}
		must(yaml.Unmarshal(source(operator, "example/prometheus-operator-crd/monitoring.coreos.com_"+kind+"s.yaml"), &crd))
		for _, version := range crd.Spec.Versions {
			used := object{}
			schema := compact(version.Schema.OpenAPIV3Schema, nil, used).(object)
			// A definition of a kind leaves the metadata to Kubernetes.
			schema["properties"].(object)["metadata"] = compact(object{"$ref": prefix + metadata}, api.Definitions, used)
			write(kind+"-monitoring-"+version.Name, schema, used)
		}
	}
}

// The schema without what judges nothing. The definitions that it names are added to used.
func compact(value any, definitions map[string]object, used object) any {
	switch value := value.(type) {
	case []any:
		for i, item := range value {
			value[i] = compact(item, definitions, used)
		}
		return value
	case object:
		if reference, ok := value["$ref"].(string); ok {
			name := strings.TrimPrefix(reference, prefix)
			if _, known := used[name]; !known {
				used[name] = true
				used[name] = compact(definitions[name], definitions, used)
			}
			if name == quantity {
				used[name] = object{"type": []any{"string", "number"}}
			}
			return object{"$ref": reference}
		}
		if value["format"] == "int-or-string" || value["x-kubernetes-int-or-string"] == true {
			return object{"type": []any{"string", "integer"}}
		}
		result := object{}
		for key, inner := range value {
			switch key {
			case "type", "format", "pattern", "required", "enum", "minimum", "maximum", "minLength", "maxLength", "minItems", "maxItems":
				result[key] = inner
			case "items", "allOf", "anyOf", "oneOf", "not", "additionalProperties":
				result[key] = compact(inner, definitions, used)
			case "properties":
				properties := object{}
				for name, property := range inner.(object) {
					properties[name] = compact(property, definitions, used)
				}
				result[key] = properties
			}
		}
		_, open := value["additionalProperties"]
		if _, named := value["properties"]; named && !open && value["x-kubernetes-preserve-unknown-fields"] != true {
			result["additionalProperties"] = false
		}
		return result
	}
	return value
}

func write(file string, schema, used object) {
	if len(used) > 0 {
		schema["definitions"] = used
	}
	// Map keys are sorted: the same sources make the same bytes.
	var text bytes.Buffer
	encoder := json.NewEncoder(&text)
	encoder.SetEscapeHTML(false)
	must(encoder.Encode(schema))
	must(os.WriteFile(filepath.Join("schemas", file+".json"), text.Bytes(), 0o644))
	fmt.Printf("%s.json: %d bytes\n", file, text.Len())
}

// A file of a module, by way of the module cache.
func source(module, path string) []byte {
	command := exec.Command("go", "mod", "download", "-json", module)
	command.Stderr = os.Stderr
	output, err := command.Output()
	must(err)
	var found struct{ Dir string }
	must(json.Unmarshal(output, &found))
	text, err := os.ReadFile(filepath.Join(found.Dir, path))
	must(err)
	return text
}

func must(err error) {
	if err != nil {
		log.Fatal(err)
	}
}
