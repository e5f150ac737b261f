//! Fetches attestations and attachments, and checks that they are what they claim to be.

use bytes::Bytes;
use sluice_domain::{Digest, Repository, Tag};

use crate::client::{Client, object_name};
use crate::content::attachment::form::Form;
use crate::content::attachment::{
    are_bounded, config_fault, config_platform, form_of, manifest_fault,
};
use crate::content::manifest::descriptor::{Descriptor, digest_of};
use crate::content::manifest::{Content, Manifest};
use crate::error::Error;
use crate::http::response::body::read_body;

/// The most bytes of blobs that are read for one index of referrers.
const MAX_INDEX_BYTES: u64 = 256 << 20;

/// What of an attachment, or of an index of referrers, may be promoted.
#[derive(Debug)]
pub enum AdmittedAttachment {
    /// The whole manifest.
    Whole(Manifest),
    /// An index of referrers without those that are refused.
    Filtered {
        /// The remaining index.
        index: Manifest,
        /// The refused referrers, and why.
        left_out: String,
    },
    /// Nothing.
    Refused {
        /// Why.
        reason: String,
    },
}

impl Client {
    /// Returns whether a child of an index is an attestation, which nothing can run: by its platform in the index, by its
    /// configuration, and by its layers, each of which must be an in-toto statement.
    pub async fn is_attestation(
        &self,
        repository: &Repository,
        listed: &Descriptor,
        manifest: &Manifest,
    ) -> Result<bool, Error> {
        let Content::Image { config, layers } = &manifest.content else {
            return Ok(false);
        };
        if !manifest.has_attestation_types(listed) || !are_bounded(config, layers) {
            return Ok(false);
        }
        let platform = config_platform(&self.fetch_small_blob(repository, config).await?);
        if !platform.is_some_and(|platform| platform.is_unknown()) {
            return Ok(false);
        }
        for layer in layers {
            let statement = self.fetch_small_blob(repository, layer).await?;
            if let Some(fault) = Form::InToto.fault(&statement) {
                tracing::warn!(
                    image.repository = %repository, image.digest = %manifest.digest, layer = %layer.digest, fault,
                    "marked as an attestation by its index, but it is none; it needs a scan"
                );
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Returns what of an attachment tag may be promoted: the manifest, or the valid referrers of an index.
    pub async fn admit_attachment(
        &self,
        repository: &Repository,
        tag: &Tag,
        digest: &Digest,
    ) -> Result<AdmittedAttachment, Error> {
        let root = self.fetch_manifest(repository, &digest.into()).await?;
        if !tag.is_list() {
            let fault = self.attachment_fault(repository, &root).await?;
            return Ok(match fault {
                Some(reason) => AdmittedAttachment::Refused { reason },
                None => AdmittedAttachment::Whole(root),
            });
        }
        let (subject, mut valid, mut faults) = (tag.attached_to(), Vec::new(), Vec::new());
        let mut bytes_left = MAX_INDEX_BYTES;
        for listed in root.children() {
            let reference = (&listed.digest).into();
            let check = async {
                let referrer = self.fetch_manifest(repository, &reference).await?;
                let sizes = referrer.blobs().map(|blob| blob.size);
                let size_bytes = sizes.fold(0, u64::saturating_add);
                if referrer.subject() != subject {
                    return Ok(Err("it refers to another manifest".to_owned()));
                }
                if size_bytes > bytes_left {
                    return Ok(Err("the referrers are too large together".to_owned()));
                }
                bytes_left -= size_bytes;
                let fault = self.attachment_fault(repository, &referrer).await?;
                Ok::<_, Error>(fault.map_or(Ok(referrer), Err))
            };
            let checked = match check.await {
                // An invalid referrer keeps no other out.
                Err(Error::Untrusted { reason, .. }) => Err(reason),
                Err(error) if error.is_not_found() => Err("it does not exist".to_owned()),
                checked => checked?,
            };
            match checked {
                Ok(referrer) => valid.push(referrer),
                Err(fault) => faults.push(format!("{}: {fault}", listed.digest)),
            }
        }
        let reason = faults.join("; ");
        if faults.is_empty() && !valid.is_empty() {
            return Ok(AdmittedAttachment::Whole(root));
        }
        Ok(match Manifest::add_referrers(None, &valid)? {
            Some(index) => AdmittedAttachment::Filtered {
                index,
                left_out: reason,
            },
            None if reason.is_empty() => AdmittedAttachment::Refused {
                reason: "it lists nothing".to_owned(),
            },
            None => AdmittedAttachment::Refused { reason },
        })
    }

    /// Returns why a manifest is no valid attachment; none if it is.
    pub async fn attachment_fault(
        &self,
        repository: &Repository,
        manifest: &Manifest,
    ) -> Result<Option<String>, Error> {
        let Content::Image { config, layers } = &manifest.content else {
            return Ok(Some("it is an index".to_owned()));
        };
        if let Some(fault) = manifest_fault(manifest, config, layers) {
            return Ok(Some(fault));
        }
        let bytes = self.fetch_small_blob(repository, config).await?;
        if let Some(fault) = config_fault(config, &bytes) {
            return Ok(Some(format!("configuration {}: {fault}", config.digest)));
        }
        for layer in layers {
            // `manifest_fault` has refused a layer without a form.
            let Some(form) = form_of(&layer.media_type) else {
                continue;
            };
            let bytes = self.fetch_small_blob(repository, layer).await?;
            if let Some(fault) = form.fault(&bytes) {
                return Ok(Some(format!("layer {}: {fault}", layer.digest)));
            }
        }
        Ok(None)
    }

    /// Fetches a blob whose size is within the limits.
    async fn fetch_small_blob(
        &self,
        repository: &Repository,
        blob: &Descriptor,
    ) -> Result<Bytes, Error> {
        let object = object_name(repository, &blob.digest);
        let limit = usize::try_from(blob.size).unwrap_or(usize::MAX);
        let response = self.open_blob(repository, blob).await?;
        let bytes = read_body(&object, response, limit).await?;
        if bytes.len() != limit || digest_of(&bytes) != blob.digest {
            let reason = "the bytes do not have the digest and size that were asked for";
            return Err(Error::untrusted(object, reason));
        }
        Ok(bytes)
    }
}
