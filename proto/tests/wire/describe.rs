//! A descriptor set as text: one line for each field, value and method.
//!
//! Responsible for: everything about a message that peers depend on.
//! Always holds: sorted, so that the order of definitions does not matter.
//! Not here: what the text should be (`*.txt` beside this file).

use std::collections::BTreeSet;
use std::fmt::Write as _;

use prost_types::field_descriptor_proto::{Label, Type};
use prost_types::{
    DescriptorProto, EnumDescriptorProto, FieldDescriptorProto, FileDescriptorSet,
    ServiceDescriptorProto,
};

/// Describes every definition whose package does not begin with `google.protobuf`.
pub fn describe(set: &FileDescriptorSet) -> String {
    let mut parts = BTreeSet::new();
    for file in &set.file {
        if file.package().starts_with("google.protobuf") {
            continue;
        }
        let prefix = match file.package() {
            "" => String::new(),
            package => format!("{package}."),
        };
        for message in &file.message_type {
            describe_message(&prefix, message, &mut parts);
        }
        for definition in &file.enum_type {
            parts.insert(describe_enum(&prefix, definition));
        }
        for service in &file.service {
            parts.insert(describe_service(&prefix, service));
        }
    }
    parts.into_iter().collect()
}

fn describe_message(prefix: &str, message: &DescriptorProto, parts: &mut BTreeSet<String>) {
    let name = format!("{prefix}{}", message.name());
    let inner = format!("{name}.");
    let mut text = format!("message {name}\n");
    let mut fields: Vec<_> = message.field.iter().collect();
    fields.sort_by_key(|field| field.number());
    for field in fields {
        text.push_str(&describe_field(message, field));
    }
    parts.insert(text);
    for nested in &message.nested_type {
        describe_message(&inner, nested, parts);
    }
    for nested in &message.enum_type {
        parts.insert(describe_enum(&inner, nested));
    }
}

fn describe_field(message: &DescriptorProto, field: &FieldDescriptorProto) -> String {
    let label = match field.label() {
        Label::Repeated => "repeated ",
        _ if field.proto3_optional() => "optional ",
        _ => "",
    };
    let kind = match field.r#type() {
        Type::Message | Type::Enum => field.type_name().trim_start_matches('.').to_owned(),
        scalar => scalar
            .as_str_name()
            .trim_start_matches("TYPE_")
            .to_ascii_lowercase(),
    };
    let oneof = match field.oneof_index {
        Some(index) if !field.proto3_optional() => {
            format!(" in {}", message.oneof_decl[index as usize].name())
        }
        _ => String::new(),
    };
    format!(
        "  {} {label}{kind} {}{oneof}\n",
        field.number(),
        field.name()
    )
}

fn describe_enum(prefix: &str, definition: &EnumDescriptorProto) -> String {
    let mut text = format!("enum {prefix}{}\n", definition.name());
    for value in &definition.value {
        writeln!(text, "  {} {}", value.number(), value.name()).unwrap();
    }
    text
}

fn describe_service(prefix: &str, service: &ServiceDescriptorProto) -> String {
    let stream = |yes: bool| if yes { "stream " } else { "" };
    let mut methods = BTreeSet::new();
    for method in &service.method {
        methods.insert(format!(
            "  {} {}{} -> {}{}\n",
            method.name(),
            stream(method.client_streaming()),
            method.input_type().trim_start_matches('.'),
            stream(method.server_streaming()),
            method.output_type().trim_start_matches('.'),
        ));
    }
    let methods: String = methods.into_iter().collect();
    format!("service {prefix}{}\n{methods}", service.name())
}
