{{/* What the services are, whatever the values say. `grace` is the default of `http.grace_seconds`. */}}
{{- define "sluice.services" -}}
poller: {grace: 25, resourceSecrets: true, internet: true, streams: [WORK, SCHEDULES_poller]}
mirror-worker: {grace: 60, registry: true, resourceSecrets: true, internet: true, streams: [EVENTS, WORK, SCHEDULES_mirror-worker]}
scanner-adapter: {grace: 60, registry: true, internet: true, streams: [EVENTS, WORK, SCHEDULES_scanner-adapter]}
promoter: {grace: 30, registry: true, resourceSecrets: true, internet: true, streams: [EVENTS, WORK, SCHEDULES_promoter]}
pruner: {grace: 30, registry: true, streams: [EVENTS, WORK, SCHEDULES_pruner]}
webhook-dispatcher: {grace: 30, resourceSecrets: true, internet: true, streams: [EVENTS, PULLS, WORK, SCHEDULES_webhook-dispatcher]}
gateway: {grace: 30, registry: true, resourceSecrets: true, streams: [EVENTS, WORK, SCHEDULES_gateway]}
{{- end }}

{{/* The variables that settings become: `SLUICE__SECTION__KEY`. Numbers of values are floats. */}}
{{- define "sluice.settings" -}}
{{- range $section, $keys := . }}
{{- range $key, $value := $keys }}
- name: SLUICE__{{ upper $section }}__{{ upper $key }}
  value: {{ include "sluice.text" $value | quote }}
{{- end }}
{{- end }}
{{- end }}

{{- define "sluice.text" -}}
{{- if kindIs "float64" . }}{{ int64 . }}{{ else if kindIs "slice" . }}{{ toJson . }}{{ else }}{{ . }}{{ end }}
{{- end }}

{{/* The variables of one service; takes root, name and its facts. */}}
{{- define "sluice.serviceEnv" -}}
{{- $values := .root.Values -}}
- name: SLUICE__BUS__URL
  value: {{ $values.nats.url | quote }}
- name: SLUICE__BUS__USER
  value: {{ .name }}
- name: SLUICE__BUS__PASSWORD_FILE
  value: /run/secrets/nats/password
{{- if $values.nats.caSecret }}
- name: SLUICE__BUS__CA_FILE
  value: /run/secrets/nats-ca/ca.crt
{{- end }}
{{- if $values.nats.allowPlainText }}
- name: SLUICE__BUS__ALLOW_PLAIN_TEXT
  value: "true"
{{- end }}
- name: SLUICE__HTTP__LISTEN
  value: 0.0.0.0:8080
{{- if .facts.registry }}
{{- $public := printf "https://%s" $values.publicHost }}
{{- $url := ternary $public (default $public $values.registry.url) (eq .name "gateway") }}
- name: SLUICE__REGISTRY__URL
  value: {{ $url | quote }}
- name: SLUICE__REGISTRY__ACCOUNT
  value: {{ .name }}
- name: SLUICE__REGISTRY__PASSWORD_FILE
  value: /run/secrets/registry/password
{{- if or $values.registry.tokenHost (ne $url $public) }}
- name: SLUICE__REGISTRY__TOKEN_HOST
  value: {{ include "sluice.tokenHost" .root | quote }}
{{- end }}
{{- if and $values.registry.allowPlainText (hasPrefix "http://" $url) }}
- name: SLUICE__REGISTRY__ALLOW_PLAIN_TEXT
  value: "true"
{{- end }}
{{- end }}
{{- if eq .name "gateway" }}
- name: SLUICE__TOKENS__LISTEN
  value: 0.0.0.0:8481
- name: SLUICE__TOKENS__ALLOW_PLAIN_TEXT
  value: "true"
{{- if $values.api.enabled }}
- name: SLUICE__API__LISTEN
  value: 0.0.0.0:8480
- name: SLUICE__API__ALLOW_PLAIN_TEXT
  value: "true"
{{- end }}
{{- end }}
{{- if and (eq .name "webhook-dispatcher") $values.tracing.uiUrl }}
- name: SLUICE__WEBHOOKS__TRACE_URL
  value: {{ $values.tracing.uiUrl | quote }}
{{- end }}
{{- include "sluice.settings" (index $values.services .name).settings }}
{{- include "sluice.commonEnv" (dict "root" .root "env" (index $values.services .name).env) }}
{{- end }}

{{/* The volumes of one service and where it finds them. */}}
{{- define "sluice.serviceVolumes" -}}
{{- $secrets := .root.Values.secrets }}
{{- include "sluice.natsVolumes" (dict "root" .root "user" .name) }}
{{- if .facts.registry }}
- name: registry
  secret:
    secretName: {{ $secrets.accounts }}
    defaultMode: 0440
    items: [{key: {{ .name }}, path: password}]
{{- end }}
{{- if .facts.resourceSecrets }}
- name: secrets
  secret:
    secretName: {{ default $secrets.resources (index .root.Values.services .name).resourceSecret }}
    defaultMode: 0440
    optional: true
{{- end }}
{{- if eq .name "gateway" }}
- name: keys
  projected:
    defaultMode: 0440
    sources:
      - secret:
          name: {{ $secrets.gateway }}
          items:
            {{- range list "signing-key.pem" "certificate.pem" "notifications" "api-token" }}
            - {key: {{ . }}, path: {{ . }}}
            {{- end }}
      - secret:
          name: {{ $secrets.accounts }}
          items:
            {{- range $name, $facts := include "sluice.services" . | fromYaml }}
            {{- if $facts.registry }}
            - {key: {{ $name }}, path: accounts/{{ $name }}}
            {{- end }}
            {{- end }}
{{- end }}
{{- if eq .name "scanner-adapter" }}
- name: cache
  {{- with .root.Values.scanner.cache }}
  {{- if .existingClaim }}
  persistentVolumeClaim:
    claimName: {{ .existingClaim }}
  {{- else }}
  emptyDir:
    sizeLimit: {{ .size }}
  {{- end }}
  {{- end }}
- name: tmp
  emptyDir:
    sizeLimit: 1Gi
{{- end }}
{{- end }}

{{- define "sluice.serviceMounts" -}}
{{- include "sluice.natsMounts" .root }}
{{- if .facts.registry }}
- {name: registry, mountPath: /run/secrets/registry, readOnly: true}
{{- end }}
{{- if .facts.resourceSecrets }}
- {name: secrets, mountPath: /etc/sluice/secrets, readOnly: true}
{{- end }}
{{- if eq .name "gateway" }}
- {name: keys, mountPath: /etc/sluice/keys, readOnly: true}
{{- end }}
{{- if eq .name "scanner-adapter" }}
- {name: cache, mountPath: /var/cache/sluice/trivy}
- {name: tmp, mountPath: /tmp}
{{- end }}
{{- end }}
