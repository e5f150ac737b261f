"""The shapes of custom resources, as far as the chart writes them: no schema of them comes with Kubernetes."""

import jsonschema


def shape(properties, required=None):
    required = list(properties) if required is None else required
    return {"type": "object", "additionalProperties": False, "properties": properties, "required": required}


def several(items):
    return {"type": "array", "items": items, "minItems": 1}


TEXT = {"type": "string"}
NUMBER = {"type": "integer"}
TEXTS = {"type": "object", "additionalProperties": TEXT}
BEHAVIOR = shape({"scaleDown": shape({"stabilizationWindowSeconds": NUMBER})})
BACKEND = shape({"name": TEXT, "port": NUMBER})
DURATION = {"type": "string", "pattern": "^[0-9]+(ms|s|m|h)$"}

SPECS = {
    ("monitoring.coreos.com/v1", "ServiceMonitor"): shape(
        {
            "selector": shape({"matchLabels": TEXTS}),
            "podTargetLabels": several(TEXT),
            "endpoints": several(shape({"port": TEXT, "path": TEXT, "interval": DURATION})),
        }
    ),
    ("monitoring.coreos.com/v1", "PrometheusRule"): shape(
        {
            "groups": several(
                shape(
                    {
                        "name": TEXT,
                        "rules": several(
                            shape(
                                {
                                    "alert": TEXT,
                                    "expr": TEXT,
                                    "for": DURATION,
                                    "labels": shape({"severity": {"enum": ["warning", "critical"]}}),
                                    "annotations": shape({"summary": TEXT}),
                                },
                                required=["alert", "expr", "labels", "annotations"],
                            )
                        ),
                    }
                )
            )
        }
    ),
    ("keda.sh/v1alpha1", "ScaledObject"): shape(
        {
            "scaleTargetRef": shape({"name": TEXT}),
            "pollingInterval": NUMBER,
            "minReplicaCount": {"type": "integer", "minimum": 1},
            "maxReplicaCount": NUMBER,
            "fallback": shape({"failureThreshold": NUMBER, "replicas": NUMBER}),
            "advanced": shape({"horizontalPodAutoscalerConfig": shape({"behavior": BEHAVIOR})}),
            "triggers": several(
                shape(
                    {
                        "type": {"const": "nats-jetstream"},
                        # Texts all of them, also numbers.
                        "metadata": shape(
                            {
                                "natsServerMonitoringEndpoint": TEXT,
                                "useHttps": {"enum": ["true", "false"]},
                                "account": TEXT,
                                "stream": TEXT,
                                "consumer": TEXT,
                                "lagThreshold": {"type": "string", "pattern": "^[0-9]+$"},
                            }
                        ),
                    }
                )
            ),
        }
    ),
    ("gateway.networking.k8s.io/v1", "HTTPRoute"): shape(
        {
            "parentRefs": several(shape({"name": TEXT, "namespace": TEXT, "sectionName": TEXT}, required=["name"])),
            "hostnames": several(TEXT),
            "rules": several(
                shape(
                    {
                        "matches": several(
                            shape({"path": shape({"type": {"enum": ["Exact", "PathPrefix"]}, "value": TEXT})})
                        ),
                        "timeouts": shape({"request": DURATION, "backendRequest": DURATION}),
                        "backendRefs": several(BACKEND),
                    },
                    required=["matches", "backendRefs"],
                )
            ),
        }
    ),
    ("cert-manager.io/v1", "Certificate"): shape(
        {
            "secretName": TEXT,
            "dnsNames": several(TEXT),
            "privateKey": shape({"algorithm": {"const": "ECDSA"}, "size": NUMBER, "rotationPolicy": {"const": "Always"}}),
            "issuerRef": shape({"name": TEXT, "kind": TEXT, "group": TEXT}),
        }
    ),
}


def problem(document):
    """Returns what is wrong with a custom resource; `None` if nothing is."""
    spec = SPECS.get((document["apiVersion"], document["kind"]))
    if spec is None:
        return "its kind is unknown"
    try:
        jsonschema.validate(document["spec"], spec)
    except jsonschema.ValidationError as error:
        return f"{'/'.join(map(str, error.absolute_path))}: {error.message}"
    return None
