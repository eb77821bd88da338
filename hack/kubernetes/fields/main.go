// Prints the path of every field of a KubeletConfiguration: of structs those of their own fields, of maps,
// lists and what is written as one value only their own.
package main

import (
	"encoding"
	"encoding/json"
	"fmt"
	"reflect"
	"strings"

	"k8s.io/kubelet/config/v1beta1"
)

var (
	asText = reflect.TypeFor[encoding.TextMarshaler]()
	asJSON = reflect.TypeFor[json.Marshaler]()
)

func print(path string, of reflect.Type) {
	for of.Kind() == reflect.Pointer {
		of = of.Elem()
	}
	written := reflect.PointerTo(of).Implements(asText) || reflect.PointerTo(of).Implements(asJSON)
	if of.Kind() != reflect.Struct || written {
		fmt.Println(path)
		return
	}
	for i := range of.NumField() {
		field := of.Field(i)
		name, options, _ := strings.Cut(field.Tag.Get("json"), ",")
		switch {
		case name == "" && path == "":
			// kind and apiVersion.
		case name == "" || strings.Contains(options, "inline"):
			print(path, field.Type)
		case path == "":
			print(name, field.Type)
		default:
			print(path+"."+name, field.Type)
		}
	}
}

func main() {
	print("", reflect.TypeFor[v1beta1.KubeletConfiguration]())
}
